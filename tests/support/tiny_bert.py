"""A tiny BERT with random weights and a WordPiece tokenizer, saved as models on the Hub are; what Transformers says with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

WORDS = "the a cat dog sat ran on in mat house red blue big small and then it was not very fast slow far away today ##s ##ing"
TEXTS = [
    "the cat sat on the mat",
    "a big red dog ran",
    "it was not very far away and then it was",
    "blue cats",
    "dogs running today",
]


def make(folder: Path, labels: tuple[str, ...] = (), **config: Any) -> Path:
    """An encoder, or with `labels` a classifier (one label: a cross-encoder). `config` changes config.json."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [mark + letter for mark in ("", "##") for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*special, *letters, *WORDS.split()]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name.strip('[]').lower()}_token": name for name in special}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, model_max_length=64, **names)
    wrapped.save_pretrained(folder)
    if labels:
        config |= {"id2label": dict(enumerate(labels)), "label2id": {name: number for number, name in enumerate(labels)}}
    made = BertConfig(
        vocab_size=len(vocabulary),
        **{"hidden_size": 128, "num_hidden_layers": 3} | config,  # heads of 32: the least for which vLLM has a kernel on CPUs
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    (BertForSequenceClassification if labels else BertModel)(made).eval().save_pretrained(folder)
    return folder


def hidden(folder: Path, texts: list[str]) -> list[np.ndarray]:
    """Transformers' last hidden states of each text (tokens x size), float32."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy() for text in texts]


def logits(folder: Path, texts: list[str] | list[tuple[str, str]]) -> np.ndarray:
    """Transformers' logits of each text or pair, float32."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        given = [(text,) if isinstance(text, str) else text for text in texts]
        each = [model(**tokenizer(*one, return_tensors="pt")).logits[0] for one in given]
    found: np.ndarray = torch.stack(each).numpy()
    return found
