"""A language model of 7 billion parameters distilled into one of 1 billion. To be planned only.

    python -m kdjax.plan --config=configs/language/decoder_7b_to_1b.py --topology=v5e:16x16

There are no weights and no data here: `kdjax.train` refuses this recipe, `kdjax.plan` compiles its
step for a topology and says what it takes. The teacher has the shape of Mistral 7B
(arXiv:2310.06825) with 32,768 tokens, kept in bfloat16; the student that of TinyLlama
(arXiv:2401.02385) with the same tokens, in float32 and computed in bfloat16. The objective is the
forward KL divergence of the two next-token distributions, averaged over all tokens. Both models
answer with hidden states and heads, and `kdjax.distributions` walks over the tokens in chunks, so
that logits of all tokens never exist.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

import kdjax
from kdjax import algorithms, distributions, models
from kdjax.losses import divergences
from kdjax.models import decoder
from kdjax.plan import Problem
from kdjax.train import optimizers


def get_config():
    config = ConfigDict()
    config.title = "Forward KL from a decoder with 7 billion parameters to one with 1 billion"
    config.data = {"batch_size": 512, "length": 2048}
    config.vocabulary = 32768
    config.teacher = {
        "model": {"width": 4096, "depth": 32, "heads": 32, "kv_heads": 8, "hidden": 14336}
    }
    config.student = {
        "model": {"width": 2048, "depth": 22, "heads": 32, "kv_heads": 4, "hidden": 5632},
        "optimizer": {
            "name": "adamw", "learning_rate": 3e-4, "schedule": "cosine", "warmup": 0.01,
            "clip": 1.0,
        },
    }  # fmt: skip
    config.steps = 100_000
    config.mesh = {"data": 4, "fsdp": -1, "tensor": 1}  # docs/plan.md says why
    return config


def get_problem(config, mesh):
    """The step for a mesh: what `kdjax.plan` compiles."""
    common = {"vocabulary": config.vocabulary, "dtype": "bfloat16", "logits": False}
    teacher = models.build("decoder", **common, param_dtype="bfloat16", **config.teacher.model)
    student = models.build("decoder", **common, remat=True, **config.student.model)
    student, teacher = (models.from_linen(m, inputs="tokens") for m in (student, teacher))
    size, length = config.data.batch_size, config.data.length
    batch = {"tokens": jax.ShapeDtypeStruct((size, length), jnp.int32)}
    optimizer = optimizers.build_optimizer(
        "student.optimizer", config.student.optimizer, config.steps
    )
    return Problem(
        algorithms.distill(student, teacher, forward_kl(mesh, size * length), optimizer),
        batch,
        {"teacher": jax.eval_shape(teacher.init, jax.random.key(0), batch)},
        decoder.RULES,
        items=size * length,
        unit="tokens",
    )


def forward_kl(mesh, tokens):
    """The mean over tokens; the vocabulary is split over `tensor`, tokens over the other axes."""
    sharding = distributions.VocabSharding(mesh, "tensor", (("data", "fsdp"),))

    def loss(student_distribution, teacher_distribution):
        total = distributions.weighted_sum(divergences.kl_term, sharding=sharding)
        return total(student_distribution, teacher_distribution, 1 / tokens)

    return kdjax.lift(loss, student="distribution", teacher="distribution", name="forward_kl")
