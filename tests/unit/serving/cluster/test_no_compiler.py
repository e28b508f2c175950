"""Each in a process of its own: what is loaded there stays."""

from __future__ import annotations

import subprocess
import sys

from support.processes import importing

LOADED = """
import sys
from serving.cluster.fork_server import BEFORE_RAY, OF_A_REPLICA
from serving.cluster.no_compiler import without_compiler
__import__(BEFORE_RAY)
with without_compiler():
    for name in OF_A_REPLICA:
        __import__(name)
assert not [name for name in sys.modules if name.startswith("torch._dynamo")], "the compiler was loaded"
assert "sympy" not in sys.modules
import timm, torch
model = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=3, img_size=32).eval()
assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist() == [2, 2]
assert torch._dynamo is sys.modules["torch._dynamo"]
"""


def test_a_replica_is_loaded_without_the_compiler_which_can_be_loaded_afterwards():
    ended = subprocess.run([sys.executable, "-c", LOADED], env=importing(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
