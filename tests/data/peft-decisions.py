"""Writes peft-decisions.json, beside this file: what PEFT makes of many configs.

For each case it wraps a small model by the config and looks at the layers that came out: which modules are
adapted, with which rank and scaling, or which error was raised, and what PEFT would save as target_modules.
Nothing here knows the rules.

    pip install peft transformers torch && python peft-decisions.py
"""

import json
import pathlib
import warnings

import peft
import torch
import transformers

warnings.simplefilter("ignore")

SIZES = dict(vocab_size=16, hidden_size=8, intermediate_size=12, num_hidden_layers=12,
             num_attention_heads=2, num_key_value_heads=1, head_dim=4, rms_norm_eps=1e-5,
             max_position_embeddings=64, hidden_act="silu", rope_theta=10000.0, bos_token_id=1,
             eos_token_id=2)
LLAMA = dict(SIZES, architectures=["LlamaForCausalLM"], tie_word_embeddings=False)
TIED = dict(LLAMA, tie_word_embeddings=True)
PHI3 = dict(SIZES, architectures=["Phi3ForCausalLM"], tie_word_embeddings=False, num_hidden_layers=3,
            pad_token_id=0)
MODELS = {"llama": LLAMA, "tied": TIED, "phi3": PHI3}

Q, QV = ["q_proj"], ["q_proj", "v_proj"]
# Where Interleaf deliberately does other than PEFT. It refuses what PEFT adapts, with these words:
TIED_HEAD = {"interleaf_refuses": ["lm_head.lora_A.weight", "lm_head of the base model is its embedding"]}
EMBEDDING = {"interleaf_refuses": ["embed_tokens.lora_embedding_A", "LoRA of an embedding is not supported"]}
# It does not know defaults by family, so it takes whatever has tensors.
NO_DEFAULTS = {"interleaf_compares": False}
# It passes over names of what is no linear module, on which PEFT raises, and takes the rest.
REST = {"interleaf_takes": ["q_proj"]}

# Model, fields of the config, and what Interleaf does otherwise.
CASES = [
    # target_modules: lists.
    ("llama", dict(target_modules=QV)),
    ("llama", dict(target_modules=None), NO_DEFAULTS),
    ("llama", dict(target_modules=[])),
    ("llama", dict(target_modules=["self_attn.q_proj", "mlp.down_proj"])),
    ("llama", dict(target_modules=["proj"])),
    ("llama", dict(target_modules=["attn.q_proj"])),
    ("llama", dict(target_modules=["q_proj", "c_attn", "query_key_value"])),
    ("llama", dict(target_modules=["layers.1.self_attn.q_proj"])),
    ("llama", dict(target_modules=["1.self_attn.q_proj"])),
    ("llama", dict(target_modules=["model.layers.1.mlp.up_proj", "layers.11.mlp.up_proj"])),
    ("llama", dict(target_modules=[".*q_proj"])),
    ("llama", dict(target_modules=["q_proj", "self_attn"]), REST),
    ("llama", dict(target_modules=["q_proj", "input_layernorm"]), REST),
    ("llama", dict(target_modules=[f"model.layers.{i}.self_attn.{m}_proj" for i in range(12) for m in "qv"])),
    ("llama", dict(target_modules=[f"layers.{i}.mlp.gate_proj" for i in range(12)] + [f"model.layers.{i}."
                   "self_attn.k_proj" for i in range(0, 12, 2)] + QV + ["o_proj", "lm_head"])),
    ("llama", dict(target_modules=["q_proj", "lm_head"])),
    ("llama", dict(target_modules=["lm_head"])),
    ("tied", dict(target_modules=["q_proj", "lm_head"]), TIED_HEAD),
    ("tied", dict(target_modules=".*(q_proj|lm_head)"), TIED_HEAD),
    ("llama", dict(target_modules=["q_proj", "embed_tokens"]), EMBEDDING),
    # target_modules: regexes.
    ("llama", dict(target_modules="q_proj")),
    ("llama", dict(target_modules=".*q_proj")),
    ("llama", dict(target_modules=r".*\.(q|v)_proj$")),
    ("llama", dict(target_modules=r"^model\.layers\.1\..*_proj")),
    ("llama", dict(target_modules=r"model\.layers\.1.*\.q_proj")),
    ("llama", dict(target_modules=r"model\.layers\.\d{1,2}\.self_attn\.q_proj")),
    ("llama", dict(target_modules=r"model\.layers\.\d\.self_attn\.q_proj")),
    ("llama", dict(target_modules=r".*q_proj|model\.layers\.0\.mlp\.up_proj|v_proj")),
    ("llama", dict(target_modules=r"layers|.*\.1\.mlp\.up_proj")),
    ("llama", dict(target_modules=r".*\.(?!k_)[kqv]_proj")),
    ("llama", dict(target_modules=r".*(?<!gate)(?<!up)(?<!down)_proj")),
    ("llama", dict(target_modules=r"model\.layers\.(\d)\1\.mlp\.down_proj")),
    ("llama", dict(target_modules="(?i).*Q_PROJ")),
    ("llama", dict(target_modules=r"(?:.*?(?:vision|language).*?(?:self_attn|mlp).*?(?:q_proj|up_proj).*?)|"
                   r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|up_proj)))")),
    ("llama", dict(target_modules=r".*language_model.*\.q_proj")),
    ("llama", dict(target_modules="q_(")),
    ("llama", dict(target_modules=r".*_proj)|(?:x")),
    ("llama", dict(target_modules="")),
    # all-linear.
    ("llama", dict(target_modules="all-linear")),
    ("tied", dict(target_modules="ALL-linear")),
    ("llama", dict(target_modules="all-linear", exclude_modules=["k_proj", "model.layers.1.mlp.up_proj"])),
    ("llama", dict(target_modules="all-linear", exclude_modules=r".*\.mlp\..*")),
    ("llama", dict(target_modules="all-linear", layers_to_transform=[1])),
    ("llama", dict(target_modules=["all-linear"])),
    # exclude_modules.
    ("llama", dict(target_modules=QV, exclude_modules=["v_proj"])),
    ("llama", dict(target_modules=QV, exclude_modules=["layers.1.self_attn.q_proj", "layers.11"])),
    ("llama", dict(target_modules=QV, exclude_modules=r"model\.layers\.(1|11)\..*")),
    ("llama", dict(target_modules=QV, exclude_modules="v_proj")),
    ("llama", dict(target_modules=QV, exclude_modules="")),
    ("llama", dict(target_modules=QV, exclude_modules=[])),
    ("llama", dict(target_modules=["lm_head", "q_proj"], exclude_modules=["lm_head"])),
    ("llama", dict(target_modules=["model.layers.3.mlp.up_proj"] + Q,
                   exclude_modules=["model.layers.3.mlp.up_proj"])),
    ("llama", dict(target_modules=Q, exclude_modules=["q_proj"])),
    # layers_to_transform and layers_pattern.
    ("llama", dict(target_modules=QV, layers_to_transform=1)),
    ("llama", dict(target_modules=QV, layers_to_transform=0)),
    ("llama", dict(target_modules=QV, layers_to_transform=[1, 11, 40])),
    ("llama", dict(target_modules=QV, layers_to_transform=[])),
    ("llama", dict(target_modules=QV, layers_to_transform=[-1])),
    ("llama", dict(target_modules=QV, layers_to_transform=[1], layers_pattern="layers")),
    ("llama", dict(target_modules=QV, layers_to_transform=11, layers_pattern=["h", "layers"])),
    ("llama", dict(target_modules=QV, layers_to_transform=[1], layers_pattern="")),
    ("llama", dict(target_modules=QV, layers_to_transform=[1], layers_pattern=["", "layers"])),
    ("llama", dict(target_modules=QV, layers_to_transform=[1], layers_pattern=[""])),
    ("llama", dict(target_modules=QV, layers_to_transform=[1], layers_pattern="model.layers")),
    ("llama", dict(target_modules=QV, layers_to_transform=[1], layers_pattern="[a-z]+s")),
    ("llama", dict(target_modules=QV, layers_to_transform=[1], layers_pattern="model|layers")),
    ("llama", dict(target_modules=QV, layers_to_transform=[1], layers_pattern="blocks")),
    ("llama", dict(target_modules=QV, layers_pattern="layers")),
    ("llama", dict(target_modules=["lm_head", "q_proj"], layers_to_transform=[2])),
    ("llama", dict(target_modules=["q_proj", "layers.0.self_attn.v_proj", "model.layers.5.mlp.up_proj"],
                   layers_to_transform=[2])),
    ("llama", dict(target_modules=".*q_proj", layers_to_transform=[1])),
    ("llama", dict(target_modules=QV, layers_to_transform=[1, 2], exclude_modules=["2.self_attn.q_proj"])),
    # r, lora_alpha, use_rslora.
    ("llama", dict(target_modules=Q, r=3, lora_alpha=7)),
    ("llama", dict(target_modules=Q, r=3, lora_alpha=7, use_rslora=True)),
    ("llama", dict(target_modules=Q, lora_alpha=0)),
    ("llama", dict(target_modules=Q, lora_alpha=-4)),
    ("llama", dict(target_modules=Q, r=0)),
    # rank_pattern and alpha_pattern.
    ("llama", dict(target_modules=QV, rank_pattern={"v_proj": 2}, alpha_pattern={"q_proj": 3})),
    ("llama", dict(target_modules=QV, rank_pattern={"v_proj": 2}, use_rslora=True)),
    ("llama", dict(target_modules=QV, rank_pattern={"v_proj": 2, "model.layers.1.self_attn.v_proj": 5})),
    ("llama", dict(target_modules=QV, rank_pattern={"model.layers.1.self_attn.v_proj": 5, "v_proj": 2})),
    ("llama", dict(target_modules=QV, rank_pattern={"1.self_attn.v_proj": 5,
                                                  "layers.11.self_attn.v_proj": 2})),
    ("llama", dict(target_modules=QV, rank_pattern={r"layers\.1.*v_proj": 5, ".*": 3})),
    ("llama", dict(target_modules=QV, rank_pattern={r"^model\.layers\.[23]\.self_attn\.v_proj": 5})),
    ("llama", dict(target_modules=QV, rank_pattern={"^v_proj": 5, "q_proj$": 3})),
    ("llama", dict(target_modules=QV, rank_pattern={"v_proj|self_attn": 5, "q_proj|k_proj": 3})),
    ("llama", dict(target_modules=QV, rank_pattern={r"a)|(model\.layers\.2.*v_proj": 5})),
    ("llama", dict(target_modules=QV, rank_pattern={"self_attn.v_proj": 5, r"layers.0.self.attn.q_proj": 3})),
    ("llama", dict(target_modules=QV, rank_pattern={r"(?!model\.layers\.1\.).*v_proj": 5,
                                                  r"^(?!model\.layers\.1\.).*q_proj": 3})),
    ("llama", dict(target_modules=QV, rank_pattern={r".*(?<=[02468]\.self_attn)\.v_proj": 5})),
    ("llama", dict(target_modules=QV, rank_pattern={r"\1self_attn.v_proj": 5, r"(\d)\3\..*": 3})),
    ("llama", dict(target_modules=QV, rank_pattern={"proj": 5, "layers": 3, "V_PROJ": 2})),
    ("llama", dict(target_modules=QV, rank_pattern={"up_proj": 5})),
    ("llama", dict(target_modules=QV, rank_pattern={"v_(": 5})),
    ("llama", dict(target_modules=QV, rank_pattern={"v_proj": 0})),
    ("llama", dict(target_modules=QV, alpha_pattern={"v_proj": 0, "q_proj": 0.5})),
    ("llama", dict(target_modules=QV, alpha_pattern={r".*\.1\..*": 3, "v_proj": 9}, use_rslora=True,
                   rank_pattern={r"v_proj": 6, r".*\.1\..*": 2})),
    ("llama", dict(target_modules=["lm_head", "q_proj"], rank_pattern={"lm_head": 2},
                   alpha_pattern={"head": 3})),
    # Fused modules.
    ("phi3", dict(target_modules=["qkv_proj", "gate_up_proj"])),
    ("phi3", dict(target_modules=["qkv_proj", "q_proj", "up_proj"])),
    ("phi3", dict(target_modules=["q_proj", "k_proj"])),
    ("phi3", dict(target_modules=None), NO_DEFAULTS),
    ("phi3", dict(target_modules="all-linear")),
    ("phi3", dict(target_modules=r".*\.\w+_up_proj")),
    ("phi3", dict(target_modules=["qkv_proj", "o_proj"], layers_to_transform=[1],
                  rank_pattern={"qkv_proj": 3}, alpha_pattern={"o_proj": 4})),
    ("phi3", dict(target_modules="all-linear", exclude_modules=["gate_up_proj"], rank_pattern={"up_proj": 3},
                  alpha_pattern={r"1\..*": 2})),
]


def build(config):
    kind = getattr(transformers, config["architectures"][0])
    with torch.device("meta"):
        return kind(kind.config_class(**config))


def decide(model, fields):
    """What PEFT makes of a config: groups of modules of one rank and scaling, or an error."""
    config = peft.LoraConfig(**fields)
    wrapped = peft.get_peft_model(model, config).base_model.model
    groups = {}
    for name, layer in wrapped.named_modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            groups.setdefault((layer.r["default"], layer.scaling["default"]), []).append(name)
    groups = [{"r": r, "scaling": scaling, "modules": names} for (r, scaling), names in groups.items()]
    saved = config.target_modules
    return {"adapted": groups, "saved_target_modules": sorted(saved) if isinstance(saved, set) else saved}


def main():
    cases = []
    for model, fields, *otherwise in CASES:
        # As in a file; PEFT fills in what is not there.
        fields = {"r": 4, "lora_alpha": 6, **fields}
        case = {"model": model, "config": fields}
        try:
            case |= decide(build(MODELS[model]), json.loads(json.dumps(fields)))
        except Exception as error:
            case["peft_refuses"] = type(error).__name__
        for difference in otherwise:
            case |= difference
        cases.append(case)
    models = {}
    for name, config in MODELS.items():
        linear = [pair for pair in build(config).named_modules() if isinstance(pair[1], torch.nn.Linear)]
        shapes = {path: [module.out_features, module.in_features] for path, module in linear}
        models[name] = {"config": config, "linear": shapes}
    lines = [f'{{"peft": "{peft.__version__}", "transformers": "{transformers.__version__}",', '"models":']
    lines += [json.dumps(models) + ",", '"cases": [']
    lines += [",\n".join(json.dumps(case) for case in cases), "]}"]
    pathlib.Path(__file__).with_suffix(".json").write_text("\n".join(lines) + "\n")


main()
