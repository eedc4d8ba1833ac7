"""Compose a pipeline of an image tokenizer, a text tokenizer, a processor and a transformer.

All weights are random, so it writes noise; each part is made as a trained one is.
"""

from __future__ import annotations

import torch
from PIL import Image as PILImage

from chameleon_core import Chameleon, ChameleonConfig, ChameleonForConditionalGeneration
from chameleon_text import ChameleonProcessor, Image, Text
from chameleon_text.testing import make_tokenizer
from chameleon_vq import ChameleonImageProcessor, ChameleonVQVAE, ChameleonVQVAEConfig, ImageTokenizer

torch.manual_seed(0)

# Pictures to codes: 32 × 32 pixels, halved twice, are 8 × 8 codes.
vq_config = ChameleonVQVAEConfig(
    resolution=32,
    base_channels=32,
    channel_multiplier=(1, 1, 1),
    num_res_blocks=1,
    embed_dim=8,
    latent_channels=8,
    num_embeddings=64,
)
image_tokenizer = ImageTokenizer(ChameleonVQVAE(vq_config), ChameleonImageProcessor.meta(resolution=32))

# Text to ids. A trained model has its own tokenizer.json: TextTokenizer.from_file(path).
text_tokenizer = make_tokenizer(num_codes=image_tokenizer.num_codes)
processor = ChameleonProcessor(text_tokenizer, image_tokenizer=image_tokenizer)

# Ids to ids. The vocabulary says which ids are pictures', and vq_config how many make a picture.
config = ChameleonConfig(
    vocab_size=len(text_tokenizer),
    hidden_size=64,
    intermediate_size=176,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    bos_token_id=processor.vocabulary.bos_id,
    eos_token_id=processor.vocabulary.eos_id,
    pad_token_id=processor.vocabulary.pad_id,
    vocabulary_map=text_tokenizer.token_ids,
    vq_config=image_tokenizer.config_dict(),
)
model = ChameleonForConditionalGeneration(config).eval()

chameleon = Chameleon(model, processor)

red = PILImage.new("RGB", (48, 32), "firebrick")
prompt = ["What is this? ", red, " It is "]
print(f"{len(processor.encode(prompt))} ids for the prompt, {image_tokenizer.tokens_per_image} of them the picture's")

document = chameleon.generate(prompt, max_new_tokens=12, do_sample=True, seed=1)
print("text:   ", [segment.text for segment in document if isinstance(segment, Text)])

document = chameleon.generate(["Draw ", red], modality="image", do_sample=True, seed=1, guidance_text=3.0)
(picture,) = (segment for segment in document if isinstance(segment, Image))
print("picture:", picture.image.size, "pixels, codes", *picture.codes[:8], "…")

chameleon.save_pretrained("composed")
again = Chameleon.from_pretrained("composed")
same = again.generate(["Draw ", red], modality="image", do_sample=True, seed=1, guidance_text=3.0)
print("the saved pipeline draws the same picture:", same == document)
