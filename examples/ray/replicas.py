"""Two requests to the embedded model on Ray Serve, a caption and a picture, answered with the ids that it writes alone.

Serve runs them in this process, in its mode for tests; `serve run chameleon_core.serving:app model=emoji replicas=2`
starts two processes that answer over HTTP. It needs the extra `[ray]` of chameleon-core.

    python examples/ray/replicas.py
"""

import base64
from pathlib import Path

import numpy as np
import PIL.Image

from chameleon_core import Chameleon
from chameleon_core.serving import app
from chameleon_text import Text, document_to_parts
from ray import serve

apple = PIL.Image.fromarray(np.full((64, 64, 3), (200, 30, 40), dtype=np.uint8))
caption = {"prompt": document_to_parts([apple, Text("What is this?")]), "modality": "text", "template": "chat"}
drawing = {"prompt": "a red apple", "modality": "image", "template": "chat", "options": {"do_sample": True, "seed": 7}}

handle = serve.run(app({"model": "emoji", "replicas": "1"}), _local_testing_mode=True)
waiting = [handle.generate.remote(request) for request in (caption, drawing)]  # both are in one batch
captioned, drawn = [response.result() for response in waiting]

chameleon = Chameleon.from_pretrained("emoji")
for answer, prompt, options in (
    (captioned, [apple, "What is this?"], {"modality": "text"}),
    (drawn, "a red apple", {"modality": "image", "do_sample": True, "seed": 7}),
):
    (*_, alone) = chameleon.stream(prompt, template="chat", **options)
    assert answer["ids"] == list(alone.new_ids)

print("caption:", captioned["document"])
Path("apple.png").write_bytes(base64.b64decode(drawn["pictures"][0]))
print(f"picture: {len(drawn['document'][0]['codes'])} codes, in apple.png")
