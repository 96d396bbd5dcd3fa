"""Which rounds of rollouts a killed run would need again."""

import pytest

from refine_jax.stages import train_refiner


@pytest.mark.parametrize(
  ("last", "kept"),
  # Two updates a round: update 3 is the second of round 1.
  [(None, {0, 1, 2}), (1, {0, 1, 2}), (3, {1, 2}), (4, {2}), (6, set())],
)
def test_the_round_of_the_last_checkpoint_stays(
  last, kept, tmp_path, monkeypatch
):
  def find(path, select):
    assert path == tmp_path and select == "last"
    if last is None:
      raise FileNotFoundError
    return str(tmp_path / "checkpoints" / str(last))

  monkeypatch.setattr(train_refiner.checkpoint, "find", find)
  rounds = tmp_path / "rollouts"
  rounds.mkdir()
  for number in range(3):
    (rounds / f"{number:06d}.jsonl").touch()
  train_refiner.forget(rounds, every=2)
  assert {int(path.stem) for path in rounds.iterdir()} == kept
