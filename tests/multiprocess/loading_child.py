"""One process's part of a folder of weights, and the memory it took.

As a program: ROOT [--distributed]; the folder is ROOT/model. Prints a line
of JSON.
"""

import json
import pathlib
import sys
import threading
import time

import joined


def anonymous():
  """Bytes that this process holds; pages of mapped files are nobody's."""
  text = pathlib.Path("/proc/self/status").read_text()
  line = next(x for x in text.splitlines() if x.startswith("RssAnon"))
  return 1024 * int(line.split()[1])


class Watch(threading.Thread):
  """The most that was held at once."""

  def __init__(self):
    super().__init__(daemon=True)
    self.before = self.most = anonymous()
    self.over = False

  def run(self):
    while not self.over:
      self.most = max(self.most, anonymous())
      time.sleep(0.005)


def loaded(folder):
  """What it took, as a line."""
  import jax
  import jax.numpy as jnp

  from refine_jax import sharding
  from refine_jax.models import hf

  mesh = sharding.make_mesh()
  jax.block_until_ready(jnp.zeros(()))
  watch = Watch()
  watch.start()
  _, params = hf.load(folder, mesh=mesh)
  jax.block_until_ready(params)
  watch.over = True
  watch.join()
  leaves = jax.tree.leaves(params)
  mine = [[s.data.nbytes for s in x.addressable_shards] for x in leaves]
  return json.dumps(
    {
      "process": jax.process_index(),
      "parameters": sum(x.size for x in leaves),
      "shard": sum(map(sum, mine)),
      "took": watch.most - watch.before,
      "sums": [float(jnp.sum(x)) for x in leaves],
    }
  )


if __name__ == "__main__":
  folders = f"{sys.argv[1]}/model", *sys.argv[2:]
  joined.each(folders, loaded, saves=False)
