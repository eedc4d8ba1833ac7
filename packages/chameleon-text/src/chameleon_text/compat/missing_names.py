"""Names of ``transformers`` that tokenizers and processors don't have here, and what to use instead, as clauses."""

from __future__ import annotations

from collections.abc import Mapping

_BOTH = {
    "parse_response": "answers are documents: processor.decode_document(ids)",
    "register_for_auto_class": "a folder names its class, and has no code that could be loaded",
    "response_schema": "answers are documents: processor.decode_document(ids)",
    "response_template": "answers are documents: processor.decode_document(ids)",
}
OF_TOKENIZERS: Mapping[str, str] = {
    **_BOTH,
    "as_target_tokenizer": "encode the targets by a call of their own",
    "batch_encode_plus": "call the tokenizer: tokenizer(texts, ...)",
    "build_inputs_with_special_tokens": "tokenizer(text) puts prefix_ids and suffix_ids around a text",
    "can_save_slow_tokenizer": "the tokenizer is written as tokenizer.json alone",
    "chat_control_tokens": "what messages spell is text in any case",
    "clean_up_tokenization": "text comes back as it was",
    "create_token_type_ids_from_sequences": "tokenizer(text, text_pair, return_token_type_ids=True) makes them",
    "encode_message_with_chat_template": "apply_chat_template of the conversation with the message and without it",
    "encode_plus": "call the tokenizer: tokenizer(text, ...)",
    "prepare_for_model": "call the tokenizer on texts, or pad on ids",
    "prepare_seq2seq_batch": "the model has no encoder; call the tokenizer: tokenizer(texts, ...)",
    "sanitize_special_tokens": "special tokens are in the vocabulary from the start",
    "save_chat_templates": "save_pretrained writes chat_template.jinja",
    "save_vocabulary": "save_pretrained writes tokenizer.json; backend_tokenizer.model.save(folder) writes vocab.json "
    "and merges.txt",
    "set_truncation_and_padding": "pass padding, truncation and max_length to the call",
    "slow_tokenizer_class": "there is one tokenizer, which is fast",
    "train_new_from_iterator": "a model's ids are those of its vocabulary; the library tokenizers trains others",
    "truncate_sequences": "pass truncation=True and max_length to the call",
    "update_post_processor": "set add_bos_token and add_eos_token",
}
OF_PROCESSORS: Mapping[str, str] = {
    **_BOTH,
    "audio_token_ids": "the model reads text and pictures",
    "feature_extractor": "the model reads text and pictures",
    "get_text_with_replacements": "a call writes image_seq_length placeholders for each picture",
    "prepare_inputs_layout": "a call takes pictures and texts in every form",
    "replace_image_token": "a call writes image_seq_length placeholders for each picture",
    "validate_inputs": "a call checks its arguments",
    "video_processor": "the model reads text and pictures",
    "video_token_ids": "the model reads text and pictures",
}
