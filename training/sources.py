"""Which sources the embedded guard is trained on, under which licence, and how much of each.

Knows: names, licences, caps.
Never knows: rows.

Left out on purpose: dolly_subset (CC BY-SA), malicious_instruct (no licence stated), and the whole of
benign_sharealike. Rows whose only category is `other` are outside the six and left out by data.py.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """`passes`: how often each kept row is seen. Caps are rows; a template family needs few, a rare category many."""

    file: str  # under the data folder, without .jsonl.gz
    name: str
    licence: str
    passes: int = 1
    max_safe: int = 100_000
    max_unsafe: int = 100_000


PERMISSIVE_LICENCES = frozenset(
    {"Apache-2.0", "BSD-3-Clause", "CC BY 3.0", "CC BY 4.0", "CC0", "MIT", "CC BY 4.0 + WordNet License"}
)

UNSAFE_PROMPTS = (
    Source("prompts", "aart", "CC BY 4.0", passes=3),
    Source("prompts", "ailuminate", "CC BY 4.0", passes=4),
    Source("prompts", "sap", "Apache-2.0", max_unsafe=900),
    Source("prompts", "catqa", "Apache-2.0", passes=4),
    Source("prompts", "dangerousqa", "Apache-2.0", passes=4),
    Source("prompts", "adversarialqa", "Apache-2.0", passes=4),
    Source("prompts", "harmfulqa", "Apache-2.0", passes=4),
    Source("prompts", "do_not_answer", "Apache-2.0", passes=4),
    Source("prompts", "advbench", "MIT", passes=4),
    Source("prompts", "tdc2023", "MIT", passes=4),
    Source("prompts", "hb_adv_training", "MIT", passes=4),
    Source("prompts", "coconot_unsafe", "MIT", passes=4),
    Source("prompts", "orbench_toxic", "CC BY 4.0", passes=2),
    Source("prompts", "figstep", "MIT", passes=4),
    Source("prompts", "cyberseceval_mitre", "MIT", max_unsafe=200),
    Source("prompts", "aegis2_val", "CC BY 4.0", passes=4),
)

BENIGN_PROMPTS = (
    Source("prompts", "gsm8k", "MIT", max_safe=1200),
    Source("prompts", "gpteacher_roleplay", "MIT"),
    Source("prompts", "mtbench", "Apache-2.0", passes=3),
    Source("prompts", "self_instruct", "Apache-2.0", passes=3),
    Source("benign/prompts", "clinc150", "CC BY 3.0", max_safe=3000),
    Source("benign/prompts", "banking77", "CC BY 4.0", max_safe=2000),
    Source("benign/prompts", "nlupp", "CC BY 4.0", max_safe=1000),
    Source("benign/prompts", "hwu64", "CC BY 4.0", max_safe=3000),
    Source("benign/prompts", "mmlu", "MIT", max_safe=2000),
    Source("benign/prompts", "bbh", "MIT", max_safe=500),
    Source("benign/prompts", "arena_hard", "Apache-2.0", passes=2),
    Source("benign/prompts", "ifeval", "Apache-2.0", passes=2),
    Source("benign/prompts", "awesome_prompts", "CC0", max_safe=500),
    Source("benign/prompts", "humaneval", "MIT", max_safe=100),
    Source("benign/prompts", "codegen_instruct", "MIT", max_safe=2000),
    Source("benign/prompts", "gpteacher_roleplay2", "MIT", passes=2),
    Source("benign/prompts", "taskmaster", "CC BY 4.0"),
    Source("benign/prompts", "medquad", "CC BY 4.0", max_safe=2000),
    Source("benign/prompts", "coconot_contrast_train", "MIT", passes=3),
    Source("benign/prompts", "coconot_noncompliance_benign", "MIT", passes=3),
    Source("benign/prompts", "cyberseceval_instruct", "MIT", max_safe=300),
    Source("benign/prompts", "wordnet_define", "CC BY 4.0 + WordNet License", max_safe=400),
    Source("benign/prompts", "openstax_exercise", "CC BY 4.0", max_safe=1000),
    Source("benign/prompts", "openstax_topic", "CC BY 4.0"),
)

HARD_BENIGN_PROMPTS = (
    Source("benign/prompts_hard", "mmlu", "MIT", max_safe=800),
    Source("benign/prompts_hard", "bbh", "MIT"),
    Source("benign/prompts_hard", "arena_hard", "Apache-2.0", passes=2),
    Source("benign/prompts_hard", "ifeval", "Apache-2.0", passes=2),
    Source("benign/prompts_hard", "medquad", "CC BY 4.0"),
    Source("benign/prompts_hard", "gpteacher_roleplay2", "MIT", passes=2),
    Source("benign/prompts_hard", "coconot_contrast_train", "MIT", passes=4),
    Source("benign/prompts_hard", "caia_safety", "CC BY 4.0", passes=2),
    Source("benign/prompts_hard", "cyberseceval_frr", "MIT", max_safe=250),
    Source("benign/prompts_hard", "cyberseceval_soc", "MIT", max_safe=250),
    Source("benign/prompts_hard", "figstep_advice", "MIT", passes=4),
    Source("benign/prompts_hard", "wordnet_define", "CC BY 4.0 + WordNet License", passes=2),
    Source("benign/prompts_hard", "openstax_exercise", "CC BY 4.0", passes=2),
    Source("benign/prompts_hard", "openstax_topic", "CC BY 4.0", passes=2),
    Source("benign/prompts_borderline", "orbench_hard", "CC BY 4.0"),
    Source("benign/prompts_borderline", "orbench_80k", "CC BY 4.0"),
)

HATE_TEXT = (
    Source("hate_text", "davidson", "MIT", max_safe=700),
    Source("hate_text", "edos", "CC0", max_safe=2000, max_unsafe=2000),
    Source("hate_text", "implicit_hate", "MIT", max_safe=2500, max_unsafe=3000),
    Source("hate_text", "surge", "MIT", passes=2),
    Source("hate_text", "toxigen_human", "MIT"),
)

RESPONSES = (
    Source("responses", "gptfuzz_train", "MIT", max_safe=1500),
    Source("responses", "diasafety_train", "Apache-2.0", max_safe=2500, max_unsafe=2500),
    Source("responses", "sap_outputs", "Apache-2.0", max_unsafe=500),
    Source("responses", "adaptive_attacks", "MIT"),
    Source("responses", "gsm8k_qa", "MIT", max_safe=200),
    Source("responses", "gpteacher_roleplay_qa", "MIT", max_safe=700),
    Source("responses", "self_instruct_qa", "Apache-2.0"),
    Source("responses", "aegis2_val_resp", "CC BY 4.0", passes=3),
    Source("benign/responses", "mmlu_qa", "MIT", max_safe=300),
    Source("benign/responses", "arena_hard_qa", "Apache-2.0"),
    Source("benign/responses", "codegen_instruct_qa", "MIT", max_safe=500),
    Source("benign/responses", "gpteacher_roleplay2_qa", "MIT", max_safe=300),
    Source("benign/responses", "taskmaster_qa", "CC BY 4.0", max_safe=800),
    Source("benign/responses", "medquad_qa", "CC BY 4.0", max_safe=400),
    Source("benign/responses", "coconot_contrast_qa", "MIT", passes=2),
    Source("benign/responses", "wordnet_define_qa", "CC BY 4.0 + WordNet License", max_safe=150),
    Source("benign/responses", "openstax_exercise_qa", "CC BY 4.0", max_safe=150),
    Source("benign/responses", "openstax_topic_qa", "CC BY 4.0", max_safe=150),
    Source("benign/responses_hard", "caia_safety_qa", "CC BY 4.0", max_safe=1000),
    Source("benign/responses_hard", "coconot_contrast_qa", "MIT", passes=2),
    Source("benign/responses_hard", "medquad_qa", "CC BY 4.0", max_safe=200),
    Source("benign/responses_hard", "wordnet_define_qa", "CC BY 4.0 + WordNet License", max_safe=150),
    Source("benign/responses_hard", "openstax_topic_qa", "CC BY 4.0", max_safe=150),
)

SOURCES = (*UNSAFE_PROMPTS, *BENIGN_PROMPTS, *HARD_BENIGN_PROMPTS, *HATE_TEXT, *RESPONSES)
EXCLUDED_SOURCES = frozenset({"dolly_subset", "dolly_subset_qa", "malicious_instruct"})
REFUSAL_SOURCE = "gptfuzz_train"  # its safe answers are mostly refusals; data.py pairs some with other unsafe prompts
NUM_BORROWED_REFUSALS = 1500
RETOLD_AS_PROMPTS = frozenset(
    {"sap_outputs", "adaptive_attacks", "gpteacher_roleplay_qa", "caia_safety_qa", "aegis2_val_resp"}
)
NUM_AS_PROMPTS = 2000
NOISY_SOURCES = frozenset(source.name for source in HATE_TEXT)  # tweets: many labels are a matter of opinion
NOT_EVERYDAY_SOURCES = NOISY_SOURCES | {"aegis2_val", "orbench_hard", "orbench_80k"}
RARE_CODES = frozenset({"O2", "O4", "O5", "O6"})  # a tenth of the unsafe rows or less, each
RARE_CODE_FACTOR = 2  # times as many passes
EVALUATION_FILES = ("openai_moderation", "xstest", "harmbench", "jailbreakbench", "orbench_hard_eval", "diasafety_eval")
