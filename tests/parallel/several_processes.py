"""One process of several: trains exemplars over a mesh and stores what came out.

python several_processes.py COORDINATOR COUNT INDEX OUTPUT NAME…
"""

import pickle
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "algorithms"))

MESHES = {"data": (4, 1, 1), "all_axes": (1, 2, 2)}


def whole_on(everywhere, tree):
    """Global arrays as numpy arrays of this process."""
    import jax
    import numpy as np

    from kdjax import parallel

    gathered = parallel.place(tree, jax.tree.map(lambda _: everywhere, tree))
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), gathered)


def main(coordinator, count, index, output, *names):
    import jax

    from kdjax.train import processes

    processes.initialize(coordinator, int(count), int(index))
    from exemplars import batch, exemplars, rules

    from kdjax import parallel
    from kdjax.train.checksums import checksum

    assert jax.process_count() == int(count) and jax.device_count() == 2 * int(count)
    found = {}
    for name in names:
        make, frozen = exemplars()[name]
        for shape in MESHES.values():
            mesh = parallel.make_mesh(*shape)
            compiled = parallel.compile(make(), mesh=mesh, rules=rules)
            state = compiled.init(jax.random.key(0), processes.own_rows(batch()), frozen)
            history = []
            for step in range(5):
                state, metrics = compiled.step(state, processes.own_rows(batch(step)), frozen)
                history.append(jax.device_get(metrics))
            whole = whole_on(parallel.Layout(mesh).everywhere, state.players)
            found[name, shape] = whole, history, checksum(state.players)
    if jax.process_index() == 0:
        Path(output).write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
