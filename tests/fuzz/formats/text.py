"""What chameleon-text reads."""

from __future__ import annotations

import base64
import json
from functools import partial
from pathlib import Path
from random import Random

from chameleon_text import (
    ChameleonProcessor,
    ChameleonTextError,
    Image,
    TextTokenizer,
    Vocabulary,
    document_from_json,
    document_to_json,
)

from ..engine import Files, Format, Unsound, check_within
from ..mutations import mutate_folder, mutate_json, mutate_picture
from . import seeds
from .seeds import words

TEXT = "What is <image> this? é\n\n12 <s> IMGIMGAZ"
WORDS = words(
    """
    add_prefix_space trim_offsets use_regex normalizer truncation padding vocab merges dropout unk_token
    continuing_subword_prefix end_of_word_suffix fuse_unk byte_fallback ignore_merges ByteLevel Sequence Split
    Precompiled precompiled_charsmap NFC Replace Prepend Strip Whitespace Metaspace Digits BPE WordPiece Unigram
    Regex (((a+)+)+)$ ( [ Isolated TemplateProcessing special_tokens Ġ Ā ## AAAA single_word lstrip rstrip
    normalized
    """
)
NAMES = (
    "IMGIMG" + "J" * 5000 + "Z",
    "\x00",
    " ",
    "\n",
    *words(
        """
        IMGIMGJJJJJJJJJJZ IMGIMGZ IMGIMGAAAZ IMGIMGBGZ IMGIMGBHZ IMGIMGJJJJZ < <> </ <image> <reserved08707> <s>
        <racm3:break> <div> é ｅ
        """
    ),
)
CONFIG_WORDS = words(
    """
    image_token image_seq_length padding_side left right eos_token added_tokens_decoder content <reserved08707>
    <image> <s> model_max_length chat_template extra_special_tokens image_processor
    """
)


def _use(processor: ChameleonProcessor) -> None:
    """Encode and decode a text, and a document with a picture."""
    ids = processor.tokenizer.encode(TEXT)
    check_within("ids", ids, len(processor.tokenizer))
    if not processor.tokenizer.special_ids.isdisjoint(ids):
        raise Unsound("a text has the id of a special")
    processor.tokenizer.decode(ids)
    row = processor.encode([TEXT[:7], Image(codes=(0,) * min(processor.image_seq_length, 1_000))])
    processor.decode_document(row)


def _read_tokenizer(folder: Path) -> None:
    _use(ChameleonProcessor(TextTokenizer.from_file(folder / "tokenizer.json")))


def _read_processor(folder: Path) -> None:
    _use(ChameleonProcessor.from_pretrained(folder))


def _read_names(folder: Path) -> None:
    # Straight from JSON, so that the vocabulary judges names and ids by itself.
    try:
        token_ids = json.loads((folder / "names.json").read_bytes())
    except (ValueError, RecursionError):
        return
    if not isinstance(token_ids, dict):
        return
    vocabulary = Vocabulary.from_token_ids(token_ids)
    if vocabulary.num_codes > len(token_ids):
        raise Unsound(f"{vocabulary.num_codes} codes out of {len(token_ids)} names")


def _document() -> Files:
    picture = base64.b64encode(seeds.pictures()["PNG"]).decode()
    parts = [
        {"type": "text", "text": "A cat: "},
        {"type": "image", "codes": list(range(16))},
        {"type": "image", "path": "cat.png", "codes": [1, 2, 3]},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        {"type": "image", "base64": picture},
    ]
    return {"document.json": json.dumps(parts).encode()}


def _read_document(folder: Path) -> None:
    document = document_from_json((folder / "document.json").read_bytes())
    document_to_json(document)
    seeds.processor().encode([part for part in document if not (isinstance(part, Image) and part.image is not None)])


def _mutate_picture(random: Random, files: Files) -> list[str]:
    pictures: Files = {}
    notes = mutate_picture("base64", seeds.pictures)(random, pictures)
    part = {"type": "image", "base64": base64.b64encode(pictures["base64"]).decode()}
    files["document.json"] = json.dumps([part]).encode()
    return notes


def _messages() -> Files:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Draw"}, {"type": "image", "codes": list(range(16))}]},
        {"role": "assistant", "content": [{"type": "image", "codes": [0] * 16}, {"type": "text", "text": "There."}]},
    ]
    return {"messages.json": json.dumps(messages).encode()}


def _read_messages(folder: Path) -> None:
    try:
        messages = json.loads((folder / "messages.json").read_bytes())
    except (ValueError, RecursionError):
        return
    ids = seeds.processor().encode_messages(messages)
    seeds.processor().decode_messages(ids)


def _files() -> Files:
    return seeds.written(seeds.processor().save_pretrained)


text = partial(Format, error=ChameleonTextError)
LOAD = "ChameleonProcessor.from_pretrained, .encode, .decode_document"
FORMATS = (
    text(
        "text-tokenizer",
        lambda: {"tokenizer.json": seeds.tokenizer().to_json().encode()},
        mutate_json("tokenizer.json", (*WORDS, *NAMES)),
        _read_tokenizer,
        what="tokenizer.json: TextTokenizer.from_file, ChameleonProcessor, .encode, .decode",
        share=8,
    ),
    text(
        "text-names",
        lambda: {"names.json": json.dumps(dict(seeds.tokenizer().token_ids)).encode()},
        mutate_json("names.json", NAMES),
        _read_names,
        what="names and ids of a vocabulary: Vocabulary.from_token_ids",
        share=2,
    ),
    text(
        "text-config",
        _files,
        mutate_json("tokenizer_config.json", CONFIG_WORDS),
        _read_processor,
        what=f"tokenizer_config.json: {LOAD}",
        share=1.5,
    ),
    text(
        "text-processor",
        _files,
        mutate_json("processor_config.json", CONFIG_WORDS),
        _read_processor,
        what=f"processor_config.json: {LOAD}",
        share=1.5,
    ),
    text(
        "text-folder",
        _files,
        mutate_folder(),
        _read_processor,
        what=f"files that aren't there, or no files: {LOAD}",
        share=0.3,
    ),
    text(
        "text-document",
        _document,
        mutate_json(
            "document.json", ("codes", "path", "url", "image", "image_url", "base64", "text", "http://a/b", "file://")
        ),
        _read_document,
        what="a document: document_from_json, document_to_json, ChameleonProcessor.encode",
        share=6,
    ),
    text(
        "text-picture",
        _document,
        _mutate_picture,
        _read_document,
        what="a picture in base64 in a document: document_from_json, document_to_json",
        share=3,
    ),
    text(
        "text-messages",
        _messages,
        mutate_json("messages.json", ("role", "content", "user", "assistant", "system", "tool", "image", "text")),
        _read_messages,
        what="chat messages: ChameleonProcessor.encode_messages, .decode_messages",
        share=3,
    ),
)
