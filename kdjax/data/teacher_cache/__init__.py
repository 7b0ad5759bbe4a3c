"""A teacher's answers on disk: written once, read by example and view, checked against mix-ups.

A cache is a folder of array_record files. Its rows belong to an example (by `id`), a view (which of
its fixed augmentations) and a teacher (by a checksum of its variables), and to no batch size, mesh
or seed of a run.
"""

from kdjax.data.teacher_cache.identity import variables_fingerprint
from kdjax.data.teacher_cache.keep import KeepSamples, KeepSignals, KeepTopK
from kdjax.data.teacher_cache.reader import TeacherCache, open_teacher_cache
from kdjax.data.teacher_cache.writer import write_teacher_cache

__all__ = [
    "KeepSamples",
    "KeepSignals",
    "KeepTopK",
    "TeacherCache",
    "open_teacher_cache",
    "variables_fingerprint",
    "write_teacher_cache",
]
