"""The composition root: config sections become objects.

Every function takes the section it needs; paths in it are relative to the
stage's workdir.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from refine_jax import files, records, sharding
from refine_jax.batch import Batch, Params
from refine_jax.data import batches, device, encode, sources
from refine_jax.data import tokenizer as tokenizers
from refine_jax.methods.dialogue import Dialogue
from refine_jax.methods.refine import Template
from refine_jax.models import families, hf, lora_hf
from refine_jax.sampling.engine import Engine
from refine_jax.sampling.session import Session
from refine_jax.sampling.settings import Request, Sampling
from refine_jax.sampling.statistics import Statistics
from refine_jax.stages import adapters, distributed
from refine_jax.stages.reading import BadConfig, reading
from refine_jax.tasks import base as tasks
from refine_jax.tasks import programs, reft_rows
from refine_jax.training import checkpoint, optim, state


@dataclasses.dataclass(frozen=True)
class Model:
  """A model with what it needs to read and write text.

  Attributes:
    module: of one of the families; `params` its parameters, placed on `mesh`.
    source: the folder or hub name it came from; empty for a random one.
  """

  module: nn.Module
  params: Params
  tokenizer: tokenizers.Tokenizer
  mesh: jax.sharding.Mesh
  source: str = ""

  @property
  def meta(self) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    return {
      "model": families.describe(self.module),
      "tokenizer": self.tokenizer.state(),
    }

  def with_params(self, params: Params) -> "Model":
    return dataclasses.replace(self, params=params)


def resolve(path: str, workdir: files.Path) -> files.Path:
  """A path of a config: absolute, or relative to the workdir."""
  return files.resolve(workdir, path)


def task(config: ConfigDict, options: ConfigDict | None = None) -> tasks.Task:
  """The experiment's task; a stage may have `options` of its own."""
  own = options.to_dict() if options else {}
  with reading("task"):
    return tasks.load(config.name, **{**config.options.to_dict(), **own})


def problems(
  task: tasks.Task, split: str, config: ConfigDict, *, rows=(0, None)
) -> list[records.Problem]:
  """A split's problems; `rows` is a slice of the usable ones."""
  with reading("data"):
    try:
      source = task.source(split)  # ValueError names the splits there are
    except KeyError as error:
      raise ValueError(f"there is no split {split!r}") from error
    sources.check_policy(config.on_bad_row)
  found, report = sources.parse(
    source, task.problem, on_bad_row=config.on_bad_row
  )
  if report.skipped:
    distributed.tell(f"data: {report}")
  start, stop = rows
  return found[start:stop]


def pool_of(task: tasks.Task) -> programs.Pool | None:
  """Where a task's programs run, if it has any."""
  runs = isinstance(task, reft_rows.ReftTask) and task.form == "program"
  return programs.shared() if runs else None


def tell_programs(task: tasks.Task) -> None:
  """Prints how many programs ran, failed and were refused, and for what."""
  if pool := pool_of(task):
    print(f"programs: {pool.report()}", flush=True)


def refuse_test(config: ConfigDict, *splits: str) -> None:
  """Test problems are read by run_evaluate alone.

  Raises:
    BadConfig: a split is the one that the config's run_evaluate reads.
  """
  if "run_evaluate" not in config:
    return
  for split in splits:
    if split == config.run_evaluate.split:
      raise BadConfig(f"split {split!r} is kept for run_evaluate; take another")


def mesh(config: ConfigDict) -> jax.sharding.Mesh:
  """All processes' devices, or the first of them; some of every process."""
  sizes = config.to_dict()
  count = sizes.pop("devices")
  devices = jax.devices()[: count or None]
  with reading("mesh"):
    idle = set(range(jax.process_count())) - {d.process_index for d in devices}
    if idle:
      raise ValueError(
        f"devices={count} leaves process {min(idle)} without any"
      )
    return sharding.make_mesh(**sizes, devices=devices)


def own_mesh(config: ConfigDict) -> jax.sharding.Mesh:
  """This process's devices alone, for stages that share problems out.

  Every process decodes rows of its own, so the model has to fit into one
  process's devices.
  """
  if jax.process_count() == 1:
    return mesh(config)
  sizes = config.to_dict()
  count = sizes.pop("devices")
  with reading("mesh"):
    return sharding.make_mesh(
      **sizes, devices=jax.local_devices()[: count or None]
    )


def tokenizer(
  config: ConfigDict, workdir: pathlib.Path, markers: Sequence[str] = ()
) -> tokenizers.Tokenizer:
  """The config's tokenizer; says which markers it cannot represent."""
  path = config.path
  if path != "byte":
    local = resolve(path, workdir)
    path = local if local.exists() or path.startswith(".") else path
  with reading("tokenizer"):
    made = tokenizers.load(path)
  made.tokens_unknown(markers)
  return made


def fresh_model(
  config: ConfigDict,
  tokenizer_config: ConfigDict,
  mesh: jax.sharding.Mesh,
  workdir: pathlib.Path,
  *,
  seed: int,
  markers: Sequence[str] = (),
) -> Model:
  """The model of a `model` section: a checkpoint, pretrained, or random."""
  if config.init_from:
    if config.path:
      distributed.tell(
        f"model: from init_from={config.init_from}, not from path={config.path}"
      )
    return load_model(resolve(config.init_from, workdir), mesh)
  text = tokenizer(tokenizer_config, workdir, markers)
  if config.path:
    return _pretrained(config, text, mesh)
  fields = config.overrides.to_dict()
  if not fields.get("vocab_size"):
    fields["vocab_size"] = text.vocab_size
  with reading("model"):
    module = families.build({"family": config.family, "config": fields})
  params = state.init_params(
    module, jax.random.key(seed), mesh, example_batch()
  )
  return Model(module, params, text, mesh)


def _pretrained(config, text, mesh) -> Model:
  folder = _folder(config.path)
  with reading("model"):
    module, params = hf.load(folder, mesh=mesh, **config.overrides.to_dict())
  if text.vocab_size > module.config.vocab_size:
    raise BadConfig(
      f"the tokenizer has {text.vocab_size} ids, the model {folder} only"
      f" {module.config.vocab_size}"
    )
  return Model(module, params, text, mesh, config.path)


def load_model(path: pathlib.Path, mesh: jax.sharding.Mesh) -> Model:
  """A model from a checkpoint of ours, from a Hugging Face folder, or from a
  PEFT folder of adapters, which are worked in."""
  source = str(files.absolute(path))
  if lora_hf.is_folder(path):
    base = load_model(_folder(lora_hf.read_config(path)[lora_hf.BASE]), mesh)
    found = adapters.from_peft(path, base)
    return dataclasses.replace(base.with_params(found.merged), source=source)
  if is_hf(path):
    module, params = hf.load(_on_disk(path), mesh=mesh)
    return Model(module, params, tokenizers.load(path), mesh, source)
  meta = checkpoint.read_meta(path)
  module = families.build(meta["model"])
  tokenizer = tokenizers.from_state(meta["tokenizer"])
  if adapters.META in meta:
    params = load_adapters(path, mesh).merged
  else:
    abstract = state.abstract_params(module, example_batch(), mesh)
    params = checkpoint.load_params(path, abstract)
  return Model(module, params, tokenizer, mesh, source)


def load_adapters(
  path: pathlib.Path, mesh: jax.sharding.Mesh
) -> adapters.Adapted:
  """The adapters of a LoRA run's checkpoint, with their base."""
  meta = checkpoint.read_meta(path)
  module = families.build(meta["model"])
  source = meta[adapters.META]["base"]
  return adapters.read(path, meta, module, _parameters(source, module, mesh))


def is_hf(path: pathlib.Path) -> bool:
  """Whether a folder is a model of Hugging Face's, not a run of ours."""
  return (path / "config.json").exists() and not (path / "checkpoints").exists()


def _parameters(source: str, module: nn.Module, mesh) -> Params:
  """What a run's base model was, for a module with the run's own choices."""
  folder = _folder(source)
  if not is_hf(folder):
    return load_model(folder, mesh).params
  abstract = state.abstract_params(module, example_batch(), mesh)
  return hf.read(folder, module, jax.tree.map(lambda x: x.sharding, abstract))


def _folder(name: str) -> files.Path:
  """A folder, or a name on the hub, which is then fetched."""
  folder = files.path(name)
  if folder.is_dir():
    return _on_disk(folder) if is_hf(folder) else folder
  if folder.is_absolute():
    raise FileNotFoundError(f"no model at {folder}")
  import huggingface_hub

  kinds = ["*.json", "*.safetensors", "*.model"]
  return pathlib.Path(
    huggingface_hub.snapshot_download(name, allow_patterns=kinds)
  )


def _on_disk(folder: files.Path) -> files.Path:
  if files.remote(folder):
    raise BadConfig(
      f"{folder}: Hugging Face folders are read from a disk; copy or mount it"
    )
  return folder


def example_batch() -> Batch:
  """The least a model can look at: only its shapes matter."""
  ids, mask = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
  return Batch(ids, mask, ids, mask, mask)


def optimizer(config: ConfigDict, steps: int):
  settings = config.to_dict()
  settings["multipliers"] = dict(settings["multipliers"])
  with reading("optimizer"):
    return optim.make_optimizer(
      optim.OptimizerSettings(total_steps=steps, **settings)
    )


def encoded(
  model: Model,
  examples: Iterable[records.Example],
  config: ConfigDict,
) -> encode.EncodedExamples:
  """Examples in the ids this model reads; says what was dropped."""
  decoder_only = not model.module.encoder_decoder
  with reading("data"):
    encode.check_policy(config.on_long)
  made, report = encode.encode_examples(
    model.tokenizer,
    examples,
    max_prompt=config.max_prompt,
    max_target=config.max_target,
    bos=decoder_only and model.tokenizer.bos_id is not None,
    prompt_eos=not decoder_only,
    on_long=config.on_long,
  )
  if report.dropped or report.cut:
    distributed.tell(f"data: {report}")
  return made


def make_batches(
  model: Model,
  examples: encode.EncodedExamples,
  config: ConfigDict,
  *,
  batch_size: int,
  seed: int,
  shuffle: bool = True,
  epochs: int | None = None,
) -> batches.Batches:
  """Batches of this process's rows."""
  packed = config.batching == "pack"
  longest = config.max_prompt + config.max_target
  with reading("data"):
    return batches.Batches(
      examples,
      batch_size,
      pad_id=model.tokenizer.pad_id,
      mode=config.batching,
      seed=seed,
      shuffle=shuffle,
      epochs=epochs,
      row_tokens=(config.row_tokens or 4 * longest) if packed else None,
      buckets=config.buckets,
      process=sharding.share(model.mesh),
    )


def check_rows(rows: int, mesh: jax.sharding.Mesh) -> None:
  """A batch has to lie on the mesh."""
  axes = sharding.RULES["batch"]
  ways = math.prod(mesh.shape[axis] for axis in axes)
  if rows % ways:
    raise BadConfig(
      f"batch_size={rows} does not divide among {ways} devices (mesh axes"
      f" {', '.join(axes)}); take a multiple of {ways}"
    )


def place(batch: Any, mesh: jax.sharding.Mesh) -> Any:
  """Places this process's rows, those of `make_batches`."""
  return device.place(batch, sharding.of_batch(mesh), sharding.share(mesh))


def place_whole(batch: Any, mesh: jax.sharding.Mesh) -> Any:
  """Places a batch that every process has all rows of."""
  return device.place(batch, sharding.of_batch(mesh))


def place_turns(batch: Any, mesh: jax.sharding.Mesh) -> Any:
  """Places `[turns, rows, ...]` of all rows: these over the batch axes."""
  where = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(None, sharding.RULES["batch"])
  )
  return device.place(batch, where)


def sampling(config: ConfigDict, seed: int = 0) -> Sampling:
  with reading("sampling"):
    return Sampling(**config.to_dict(), seed=seed)


def at_temperature(sampling: Sampling, temperature: float) -> Sampling:
  return dataclasses.replace(sampling, temperature=temperature)


def engine(
  model: Model, config: ConfigDict, tokens: int, *, told: bool = False
) -> Engine:
  """An engine for completions of up to `tokens` tokens.

  With `told`, a line now and then says how far it is.
  """
  with reading("engine"):
    return Engine(
      model.module,
      model.tokenizer,
      mesh=model.mesh,
      slots=None if config.get("memory") else config.slots,
      memory=config.get("memory") or None,
      cache_dtype=config.get("cache_dtype") or None,
      prefill_chunk=config.get("prefill_chunk") or None,
      prompt_buckets=tuple(config.prompt_buckets),
      token_buckets=(tokens,),
      report=progress if told else None,
    )


def progress(statistics: Statistics) -> None:
  """Requests done, tokens/s, slot use, as a line of the first process."""
  distributed.tell(f"sampling: {statistics}")


def proposer(engine: Engine, params: Params, sampling: Sampling):
  """Requests -> samples, with parameters and settings bound."""

  def propose(requests: Sequence[Request]) -> list[list[records.Sample]]:
    return engine.generate(params, requests, sampling)

  return propose


def conversing(
  session: Session, sampling: Sampling, names: Callable[[Request], list[str]]
):
  """A proposer on the rows that a session keeps.

  `names` says which conversation each of a request's samples belongs to.
  """

  def propose(requests: Sequence[Request]) -> list[list[records.Sample]]:
    return session.answer(requests, [names(r) for r in requests], sampling)

  return propose


def template(config: ConfigDict) -> Template | Dialogue:
  kind = Dialogue if "style" in config else Template
  with reading("template"):
    return kind(**config.to_dict())
