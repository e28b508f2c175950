-- A load test with wrk (Debian's package `wrk`), which ends with 1 where the server did not hold what is asked of it:
--
--   ONETRUNK_KEY=ot_… IMAGE=photo.jpg TASKS=team/flowers,team/cars MAX_P99_MS=250 MAX_FAILED=0 \
--     wrk --threads 2 --connections 16 --duration 30s --latency --script predict.lua http://127.0.0.1:8000
--
-- The last line is JSON. MAX_P99_MS and MAX_FAILED (requests that were not answered with 200) may be left out.

local tasks, bodies, next_task = {}, nil, 0
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init()
  refused, answered = 0, 0
  for task in string.gmatch(os.getenv("TASKS") or error("TASKS names the tasks, with commas"), "[^,]+") do
    table.insert(tasks, (string.gsub(task, "[^%w/._:@-]", "")))
  end
  local file = assert(io.open(os.getenv("IMAGE") or error("IMAGE names a file"), "rb"))
  bodies = file:read("*a")
  file:close()
  local key = os.getenv("ONETRUNK_KEY")
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/octet-stream"
  if key then wrk.headers["Authorization"] = "Bearer " .. key end
end

function request()
  next_task = next_task % #tasks + 1
  return wrk.format(nil, "/v1/predict/" .. tasks[next_task], nil, bodies)
end

function response(status)
  if status == 200 then answered = answered + 1 else refused = refused + 1 end
end

function done(summary, latency)
  local answers, failed = 0, 0
  for _, thread in ipairs(threads) do
    answers = answers + thread:get("answered")
    failed = failed + thread:get("refused")
  end
  local errors = summary.errors
  failed = failed + errors.connect + errors.read + errors.write + errors.timeout
  local seconds, p99_ms = summary.duration / 1e6, latency:percentile(99) / 1e3
  print(string.format('{"answered": %d, "failed": %d, "per_s": %.1f, "p50_ms": %.1f, "p99_ms": %.1f, "max_ms": %.1f}',
    answers, failed, answers / seconds, latency:percentile(50) / 1e3, p99_ms, latency.max / 1e3))
  local most, slowest = tonumber(os.getenv("MAX_FAILED")), tonumber(os.getenv("MAX_P99_MS"))
  if answers == 0 or (most and failed > most) or (slowest and p99_ms > slowest) then os.exit(1) end
end
