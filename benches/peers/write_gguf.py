"""Writes a GGUF file of generated weights: a model of a config.json's shape, or a LoRA adapter for it.

    write_gguf.py CONFIG q4|q8|f16 FILE
    write_gguf.py CONFIG rank16 FILE

Random blocks are written as they are, not quantised from anything: their times are those of any others.
"""

import json
import math
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

SEED = 20260
BLOCK = 32
# The standard deviation of codes spread evenly over ±7 and over ±127.
SPREAD = {"q4": 4.3, "q8": 73.6}


class Shape:
    """What a config.json says, and which matrices follow from it."""

    def __init__(self, config: dict):
        if config["architectures"] != ["LlamaForCausalLM"]:
            sys.exit(f"only shapes of Llama's are written, not {config['architectures']}")
        self.config = config
        self.hidden = config["hidden_size"]
        self.layers = config["num_hidden_layers"]
        self.heads = config["num_attention_heads"]
        self.kv_heads = config["num_key_value_heads"]
        self.head_dim = config.get("head_dim") or self.hidden // self.heads
        self.mlp = config["intermediate_size"]
        self.vocab = config["vocab_size"]

    def layer(self) -> dict[str, tuple[int, int]]:
        """Outputs and inputs of a layer's matrices, by GGUF's names."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "attn_q": (queries, self.hidden),
            "attn_k": (keys, self.hidden),
            "attn_v": (keys, self.hidden),
            "attn_output": (self.hidden, queries),
            "ffn_gate": (self.mlp, self.hidden),
            "ffn_up": (self.mlp, self.hidden),
            "ffn_down": (self.hidden, self.mlp),
        }

    def rope_factors(self) -> np.ndarray | None:
        """What llama3's scaling divides each frequency by, as convert_hf_to_gguf.py writes it."""
        scaling = self.config.get("rope_scaling")
        if not scaling:
            return None
        factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        factors = []
        for i in range(0, self.head_dim, 2):
            wavelength = 2 * math.pi * self.config["rope_theta"] ** (i / self.head_dim)
            if wavelength < original / high:
                factors.append(1.0)
            elif wavelength > original / low:
                factors.append(factor)
            else:
                smooth = (original / wavelength - low) / (high - low)
                factors.append(1 / ((1 - smooth) / factor + smooth))
        return np.array(factors, dtype=np.float32)


def matrix(random: np.random.Generator, kind: str, rows: int, cols: int) -> tuple[np.ndarray, Type]:
    """A matrix whose outputs are about as large as its inputs."""
    size = 1 / math.sqrt(cols)
    if kind == "f16":
        return (random.standard_normal((rows, cols), dtype=np.float32) * size).astype(np.float16), Type.F16
    # As many codes above zero as below: a mean, however small, would grow from layer to layer.
    if kind == "q8":
        codes = random.integers(-127, 128, (rows, cols // BLOCK, BLOCK), dtype=np.int8).view(np.uint8)
    else:
        nibbles = random.integers(1, 16, (2, rows, cols // BLOCK, BLOCK // 2), dtype=np.uint8)
        codes = nibbles[0] | nibbles[1] << 4
    scale = np.array([size / SPREAD[kind]], dtype="<f2").view(np.uint8)
    scales = np.broadcast_to(scale, (*codes.shape[:2], 2))
    blocks = np.concatenate([scales, codes], axis=2)
    return blocks.reshape(rows, -1), Type.Q8_0 if kind == "q8" else Type.Q4_0


def write_model(shape: Shape, kind: str, file: Path) -> None:
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(shape.config["max_position_embeddings"])
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.mlp)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(shape.config["rms_norm_eps"])
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.config["rope_theta"])
    writer.add_vocab_size(shape.vocab)
    writer.add_tokenizer_model("no_vocab")
    random = np.random.default_rng(SEED)

    def add(name: str, rows: int, cols: int) -> None:
        data, dtype = matrix(random, kind, rows, cols)
        writer.add_tensor(name, data, raw_dtype=dtype)

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(shape.hidden, dtype=np.float32))

    add("token_embd.weight", shape.vocab, shape.hidden)
    norm("output_norm.weight")
    if not shape.config["tie_word_embeddings"]:
        add("output.weight", shape.vocab, shape.hidden)
    factors = shape.rope_factors()
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    for layer in range(shape.layers):
        norm(f"blk.{layer}.attn_norm.weight")
        norm(f"blk.{layer}.ffn_norm.weight")
        for name, (rows, cols) in shape.layer().items():
            add(f"blk.{layer}.{name}.weight", rows, cols)
    finish(writer)


def write_adapter(shape: Shape, rank: int, file: Path) -> None:
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
    random = np.random.default_rng(SEED + 1)
    for layer in range(shape.layers):
        for name, (outputs, inputs) in shape.layer().items():
            a, _ = matrix(random, "f16", rank, inputs)
            b, _ = matrix(random, "f16", outputs, rank)
            writer.add_tensor(f"blk.{layer}.{name}.weight.lora_a", a)
            writer.add_tensor(f"blk.{layer}.{name}.weight.lora_b", (b * np.float16(0.1)).astype(np.float16))
    finish(writer)


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    config, kind, file = sys.argv[1:]
    shape = Shape(json.loads(Path(config).read_text()))
    # Renamed when it is whole: a run that was broken off leaves no half of a file behind.
    part = Path(file).with_suffix(".part")
    if kind.startswith("rank"):
        write_adapter(shape, int(kind.removeprefix("rank")), part)
    else:
        write_model(shape, kind, part)
    part.rename(file)


if __name__ == "__main__":
    main()
