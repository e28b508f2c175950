from __future__ import annotations

import subprocess
import sys

USE = """
import sys
from serving.lean_imports import import_timm
import_timm()
import serving.replica
assert "timm" in sys.modules
print("torch._dynamo" in sys.modules)
import timm, torch
from torchvision.ops import roi_align
print(tuple(roi_align(torch.ones(1, 1, 8, 8), [torch.tensor([[0.0, 0, 4, 4]])], 2).shape))
model = timm.create_model("test_vit", num_classes=0).eval()
image = torch.ones(1, 3, *model.patch_embed.img_size)
with torch.inference_mode():
    print(torch.equal(model(image), torch.compile(model, backend="eager")(image)))
print("torch._dynamo" in sys.modules)
"""
FAIL = """
import sys
from serving import lean_imports
lean_imports._as_it_is = None
lean_imports.import_timm()
import serving.replica
print("timm" in sys.modules and sys.modules["torch._dynamo"].disable is not None)
"""


def run(code: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()


def test_timm_is_imported_without_the_compiler_which_is_there_for_those_who_ask_for_it():
    assert run(USE) == ["False", "(1, 1, 2, 2)", "True", "True"]


def test_all_of_it_is_imported_where_timm_needs_more_of_the_compiler():
    assert run(FAIL) == ["True"]
