"""The pipeline with two ranks writes and draws what it does in one process. This file is also the ranks' program.

``nox -s ranks`` runs this; chameleon-core's own tests compare ids of every kind of model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from chameleon_core import Chameleon, leading
from chameleon_core.demo import make_chameleon


def run(chameleon: Any) -> dict[str, Any]:
    """Return what the pipeline makes of a few prompts."""
    picture = chameleon.draw("a leaf")
    return {
        "drawn": picture.tobytes().hex(),
        "caption": chameleon.caption(picture, max_new_tokens=12),
        "guided": chameleon.draw("a leaf", guidance_text=3.0, seed=1).tobytes().hex(),
        "document": repr(chameleon.generate(["A ", picture], modality="interleaved", max_new_tokens=60)),
        "events": [repr(event) for event in chameleon.stream("A leaf", modality="text", max_new_tokens=12)],
    }


def main(folder: Path) -> None:
    """Run the pipeline as one of two ranks."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    chameleon = Chameleon.from_pretrained(folder / "model", tensor_parallel=2)
    with leading(chameleon.model) as leads:
        if leads:
            (folder / "found.json").write_text(json.dumps(run(chameleon)))
    dist.destroy_process_group()


def test_two_ranks_write_and_draw_what_one_does(tmp_path: Path) -> None:
    chameleon = make_chameleon(resolution=8, context_length=256)
    chameleon.model.resize_token_embeddings(1450)  # an even number of ids
    chameleon.save_pretrained(tmp_path / "model")
    command = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": loopback}
    program = [*command, __file__, str(tmp_path)]
    ran = subprocess.run(program, capture_output=True, text=True, timeout=300, env=environment)
    assert ran.returncode == 0, ran.stderr[:6000]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found == run(Chameleon.from_pretrained(tmp_path / "model"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
