"""Goldens of losses on what networks answer: rankings, transport, heads, targets, weights.

Those of methods that are no loss (gradients, influence, kernels) come last.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from families.common import Arrays, by_student, differentiate, pair
from families.features import channels_last
from kdjax import algorithms, losses, objectives
from kdjax.base import EMPTY, Context, ObjectiveVariables


def hard(arrays: Arrays):
    return jnp.mean(losses.cross_entropy(arrays["student_logits"], arrays["labels"]))


def pld(arrays: Arrays, hyper: dict):
    student, teacher = pair(arrays)
    values = losses.pld(student, teacher, arrays["labels"], temperature=hyper["temperature"])
    return jnp.mean(values), {"order_best_first": losses.label_first(teacher, arrays["labels"])}


def sinkhorn_kd(arrays: Arrays, hyper: dict):
    temperature = hyper["temperature"]
    options = {"eps": hyper["epsilon"], "iterations": hyper["n_iters"]}
    q, p = (jax.nn.softmax(x / temperature) for x in pair(arrays))
    cost = jnp.sum(jnp.abs(q[:, None] - p), axis=-1)
    outputs = {"cost": cost, "plan": losses.sinkhorn_plan(cost, **options)}
    loss = losses.sinkhorn_kd(*pair(arrays), temperature=temperature, reduction="sum", **options)
    return hyper["weight"] * loss, outputs


def by_auxiliary_head(loss):
    """An adapter of a loss on a second head, averaged over the batch."""

    def adapter(inputs: Arrays, hyper: dict):
        def total(arrays: Arrays):
            heads = arrays["aux_logits"], arrays["teacher_logits"]
            return jnp.mean(loss(*heads, temperature=hyper["temperature"]))

        return differentiate(total, inputs, ["aux_logits"])

    return adapter


def dist_plus(inputs: Arrays, hyper: dict):
    """torchdistill's, whose channels count with the other sign."""

    def loss(arrays: Arrays):
        student, teacher = (
            (arrays[f"{side}_logits"], channels_last(arrays[f"{side}_features"]))
            for side in ("student", "teacher")
        )
        value = losses.dist_plus(
            student,
            teacher,
            beta=hyper["beta"],
            gamma=hyper["gamma"],
            channel_weight=hyper["iota"],
            spatial_weight=hyper["kappa"],
            temperature=hyper["tau"],
            torchdistill=True,
        )
        maps = student[1], teacher[1]
        channels = jnp.mean(losses.channel_correlation(*maps))
        outputs = {
            "channel_term": 1 - channels,
            "spatial_term": losses.spatial_correlation(*maps, clamp_norms=True),
        }
        return value, outputs

    return differentiate(loss, inputs, ["student_logits", "student_features"])


def multi_level_logit(arrays: Arrays, hyper: dict):
    temperature = hyper["temperature"]
    q, p = (jax.nn.softmax(x / temperature) for x in pair(arrays))
    batch, classes = q.shape
    outputs = {
        "instance": jnp.mean(losses.kd(*pair(arrays), temperature=temperature)),
        "class_corr": losses.gram_distance(q, p) / classes,
        "batch_corr": losses.gram_distance(q.T, p.T) / batch,
    }
    return losses.multi_level_kd(*pair(arrays), temperature=temperature), outputs


def wsld(arrays: Arrays, hyper: dict):
    values = losses.wsld(*pair(arrays), arrays["labels"], temperature=hyper["temp"])
    return hyper["alpha"] * jnp.mean(values)


def balanced_divergence(arrays: Arrays, hyper: dict):
    options = {"high": hyper["hi"], "low": hyper["lo"], "temperature": hyper["temperature"]}
    forward, reverse = losses.entropy_balance(*pair(arrays), **options)
    outputs = {"forward_weight": forward, "reverse_weight": reverse}
    return jnp.mean(losses.balanced_kl(*pair(arrays), **options)), outputs


def ban_cwtm(arrays: Arrays, hyper: dict):
    values = losses.cwtm(*pair(arrays), arrays["labels"])
    weights = losses.confidence_weights(arrays["teacher_logits"])
    return jnp.mean(values), {"weights": weights / weights.size}


def tfkd_reg(arrays: Arrays, hyper: dict):
    """The reference averages over the classes too."""
    student, share = arrays["student_logits"], hyper["reg_alpha"]
    temperature = hyper["reg_temperature"]
    values = losses.tf_kd(
        student, arrays["labels"], temperature=temperature, soften="probabilities"
    )
    soft = hyper["multiplier"] * jnp.mean(values) / student.shape[-1]
    return (1 - share) * hard(arrays) + share * soft


def tfkd_self(arrays: Arrays, hyper: dict):
    """Distillation from an earlier copy; the reference averages over the classes too."""
    share = hyper["alpha"]
    values = losses.kd(*pair(arrays), temperature=hyper["temperature"])
    soft = hyper["multiplier"] * jnp.mean(values) / arrays["student_logits"].shape[-1]
    return (1 - share) * hard(arrays) + share * soft


def prob_mse_distill(arrays: Arrays, hyper: dict):
    options = {"label_share": hyper["alpha"]}
    return jnp.mean(losses.probability_mse(*pair(arrays), arrays["labels"], **options))


def fkd(arrays: Arrays, hyper: dict):
    kind = hyper["kind"]
    rest = "hard" if kind == "hard" else "drop" if "renorm" in kind else "spread"
    target = losses.recover_top_k(
        arrays["topk_index"], arrays["topk_prob"], num_classes=hyper["num_classes"], rest=rest
    )
    student = arrays["student_logits"] / hyper["temperature"]
    return jnp.mean(losses.soft_cross_entropy(student, target)), {"target": jnp.exp(target)}


def subclass_targets(arrays: Arrays, hyper: dict):
    target = losses.subclass_targets(
        arrays["teacher_logits"],
        arrays["teacher_emb"],
        kernel=jnp.asarray(arrays["teacher_weight"]).T,
        means=arrays["class_means"],
        directions=arrays["directions"],
        subclass_temperature=hyper["beta"],
        temperature=hyper["temperature"],
    )
    loss = jnp.mean(losses.soft_cross_entropy(arrays["student_logits"], target))
    return loss, {"subclass_targets": jnp.exp(target)}


def sla_self_distill(inputs: Arrays, hyper: dict):
    """The reference has the views of an example one after the other, as examples."""
    views = hyper["n_transforms"]

    def loss(arrays: Arrays):
        joint, labels = arrays["joint_logits"], arrays["labels"]
        joint = jnp.reshape(joint, (-1, views, joint.shape[-1]))
        values = losses.sla(
            (joint, arrays["single_logits"][::views]),
            labels,
            temperature=hyper["T"],
            joint_weight=views if hyper["with_large_loss"] else 1,
        )
        outputs = {
            "agg_logits": losses.aggregate_views(joint),
            "joint_labels": losses.joint_labels(labels, views).ravel(),
        }
        return jnp.mean(values), outputs

    return differentiate(loss, inputs, ["joint_logits", "single_logits"])


def dho(inputs: Arrays, hyper: dict):
    """Two streams are one batch that says which examples are labelled."""
    share = hyper["lam"]
    objective = objectives.dho(
        temperature=hyper["temperature"], label_weight=share, kd_weight=1 - share
    )

    def loss(arrays: Arrays):
        unlabelled = len(arrays["kd_logits_unlabeled"])
        heads = {
            "logits": jnp.pad(arrays["ce_logits"], ((0, unlabelled), (0, 0))),
            "kd_logits": jnp.concatenate([arrays["kd_logits"], arrays["kd_logits_unlabeled"]]),
        }
        teacher = jnp.concatenate([arrays["teacher_logits"], arrays["teacher_logits_unlabeled"]])
        batch = {
            "label": jnp.pad(arrays["labels"], (0, unlabelled)),
            "labelled": jnp.arange(len(teacher)) < len(arrays["labels"]),
        }
        context = Context({"student": heads, "teacher": {"logits": teacher}}, batch)
        terms, _ = objective.apply(EMPTY, context)
        answer = losses.combine_heads(
            arrays["ce_logits"],
            arrays["kd_logits"],
            share=hyper["alpha"],
            temperature=hyper["beta"],
        )
        return objectives.total_loss(terms), {"combined_probs": jnp.exp(answer)}

    return differentiate(loss, inputs, ["ce_logits", "kd_logits", "kd_logits_unlabeled"])


def uskd(inputs: Arrays, hyper: dict):
    """The reference ranks by the student's log-probabilities."""
    weights = {name: hyper[name] for name in ("alpha", "beta", "mu")}
    objective = objectives.uskd(rank="log_probability", **weights)

    def loss(arrays: Arrays):
        params = {"kernel_0": arrays["weak_w"].T, "bias_0": arrays["weak_b"]}
        student = {"logits": arrays["student_logits"], "embedding": arrays["mid_feature"]}
        context = Context({"student": student}, {"label": arrays["labels"]})
        terms, _ = objective.apply(ObjectiveVariables(params, {}), context)
        return terms["uskd"].mean

    return differentiate(loss, inputs, ["student_logits", "mid_feature", "weak_w", "weak_b"])


def nd(inputs: Arrays, hyper: dict):
    def loss(arrays: Arrays):
        embeddings = arrays["student_emb"], arrays["teacher_emb"]
        values = losses.nd(*embeddings, arrays["labels"], centers=arrays["class_centers"])
        return hyper["nd_loss_factor"] * jnp.mean(values)

    return differentiate(loss, inputs, ["student_emb"])


def assistive_landmark(inputs: Arrays, hyper: dict):
    names = ("tough", "tol")
    pull = {name: hyper[f"alpha_{name}"] for name in names}
    push = {name: hyper[f"alpha_mi_{name}"] for name in names}
    weights = {name: hyper[f"{name}_loss_weight"] for name in ("main", *names)}

    def loss(arrays: Arrays):
        points, truth = arrays["pred"], arrays["target"]
        teachers = {"tough": arrays["tough"], "tol": arrays["tolerant"]}
        total = losses.assistive_landmark(
            points,
            tuple(teachers.values()),
            truth,
            attraction=tuple(pull.values()),
            repulsion=tuple(push.values()),
            main_weight=weights["main"],
            tough_weight=weights["tough"],
            tolerant_weight=weights["tol"],
        )
        main = losses.landmark_error(points, teachers["tol"], truth)
        outputs = {"main": weights["main"] * jnp.mean(main)}
        for name, teacher in teachers.items():
            options = {"attraction": pull[name], "repulsion": push[name]}
            help_ = losses.landmark_assistance(points, teacher, truth, **options)
            outputs[name] = weights[name] * jnp.mean(help_)
        return jnp.mean(total), outputs

    return differentiate(loss, inputs, ["pred"])


def focal(inputs: Arrays, hyper: dict):
    def loss(arrays: Arrays):
        weights = arrays.get("class_weights")
        options = {"class_weights": weights, "weighted_probability": True}
        values = losses.focal(arrays["logits"], arrays["labels"], gamma=hyper["gamma"], **options)
        return jnp.mean(values)

    return differentiate(loss, inputs, ["logits"])


def mcmi_teacher(inputs: Arrays, hyper: dict):
    def loss(arrays: Arrays):
        known = arrays["logits"], arrays["labels"]
        centroids = arrays["class_centroids"]
        label_weight, weight = hyper["ce_weight"], hyper["cmi_weight"]
        values = losses.mcmi(*known, centroids=centroids, weight=weight)
        information = losses.conditional_mutual_information(*known, centroids=centroids)
        outputs = {"ce": jnp.mean(losses.cross_entropy(*known)), "cmi": jnp.mean(information)}
        return jnp.mean(values) + (label_weight - 1) * outputs["ce"], outputs

    return differentiate(loss, inputs, ["logits"])


def mst_masknet(inputs: Arrays, hyper: dict):
    layers = {
        "tokens": ("mask_embed_weight", "mask_embed_bias"),
        "attention_in": ("mask_mha_in_proj_weight", "mask_mha_in_proj_bias"),
        "attention_out": ("mask_mha_out_proj_weight", "mask_mha_out_proj_bias"),
        "readout": ("mask_fc_weight", "mask_fc_bias"),
    }

    def loss(arrays: Arrays):
        feature = arrays["feature"]
        network = objectives.mask_network(
            feature.shape[-1], hidden=hyper["hidden_dim"], heads=hyper["num_heads"]
        )
        params = {
            name: {"kernel_0": jnp.asarray(arrays[weight]).T, "bias_0": arrays[bias]}
            for name, (weight, bias) in layers.items()
        }
        mask = network.apply({"params": params}, {"features": feature})[0]["mask"]
        return jnp.mean(jnp.square(mask * feature)), {"mask": mask}

    return differentiate(loss, inputs, ["feature"])


def parc_weights(inputs: Arrays, hyper: dict):
    scores = jnp.stack([losses.parc(x, inputs["labels"]) for x in inputs["features"]])
    weights = losses.source_weights(scores, power=hyper["p"])
    return as_numpy(loss=jnp.max(weights), scores=scores, weights=weights)


def gradient_align(inputs: Arrays, hyper: dict):
    merged = algorithms.gradient_align(*map(jnp.asarray, (inputs["grad_task"], inputs["grad_kd"])))
    return as_numpy(loss=jnp.sum(jnp.square(merged)), merged=merged)


def influence_logistic(inputs: Arrays, hyper: dict):
    def loss(weights, batch):
        margin = (2 * batch["y"] - 1) * (batch["x"] @ weights)
        return jnp.logaddexp(0, -margin)

    batch = {"x": inputs["x"], "y": inputs["y"]}
    held_out = {"x": inputs["x_val"], "y": inputs["y_val"]}
    weights = jnp.asarray(inputs["w"])
    values = algorithms.influence(loss, weights, batch, held_out, damping=hyper["damping"])
    return as_numpy(loss=jnp.sum(jnp.square(values)), influence=values)


def kernel_self_distill(inputs: Arrays, hyper: dict):
    kernel = algorithms.rbf_kernel(inputs["x"], inputs["x"], gamma=hyper["gamma"])
    targets = jnp.asarray(inputs["y"])[:, 0]
    options = {"ridge": hyper["lambd"], "label_share": hyper["alpha"]}
    fits = algorithms.kernel_self_distillation(
        kernel, targets, generations=hyper["steps"], **options
    )
    limit = algorithms.kernel_self_distillation_limit(kernel, targets, **options)
    return as_numpy(loss=jnp.mean(jnp.square(fits[-1] - targets)), fits=fits, limit=limit)


def as_numpy(**outputs) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in outputs.items()}


ADAPTERS = {
    "assistive_landmark": assistive_landmark,
    "balanced_divergence": by_student(balanced_divergence),
    "ban_cwtm": by_student(ban_cwtm),
    "binary_kl": by_auxiliary_head(losses.binary_kl),
    "binary_kl_norm": by_auxiliary_head(losses.binary_kl_norm),
    "dho": dho,
    "dist_plus_torchdistill": dist_plus,
    "fkd_marginal_renorm": by_student(fkd),
    "fkd_marginal_smoothing_k5": by_student(fkd),
    "fkd_smoothing": by_student(fkd),
    "focal": focal,
    "gradient_align": gradient_align,
    "influence_logistic": influence_logistic,
    "kernel_self_distill": kernel_self_distill,
    "mcmi_teacher": mcmi_teacher,
    "mst_masknet": mst_masknet,
    "multi_level_logit": by_student(multi_level_logit),
    "nd": nd,
    "parc_weights": parc_weights,
    "pld": by_student(pld),
    "prob_mse_distill": by_student(prob_mse_distill),
    "sinkhorn_kd": by_student(sinkhorn_kd),
    "sla_self_distill": sla_self_distill,
    "subclass_targets": by_student(subclass_targets),
    "tfkd_reg": by_student(tfkd_reg),
    "tfkd_self": by_student(tfkd_self),
    "uskd": uskd,
    "wsld": by_student(wsld),
}
