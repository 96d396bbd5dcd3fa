"""REFINER's prompts to the character, for every task, model and size.

A changed prompt is a changed method: the golden files beside this test are
changed on purpose or not at all. `python tests/stages/test_refiner_prompts.py`
rewrites them.
"""

import pathlib

import pytest

from refine_jax.stages import build, launch

TOP = pathlib.Path(__file__).parents[2]
GOLDEN = pathlib.Path(__file__).parent / "golden"
SIZES = ("small", "base")
MODELS = ("t5", "flan", "llama")

POPPY = {
  "rules": [
    "If a plant is boring or weak, then the plant is beautiful.",
    "If a plant is purple, then the plant is happy.",
  ],
  "fact": "The poppy is violet and slow.",
  "consequents": "The poppy is happy",
  "explanations": "#0: violet is purple #1: poppy is plant "
  "#2: poppy is purple #3: poppy is happy ",
}
BOOKS = {
  "Body": "Bryan has number0 books in each of his number1 bookshelves ,",
  "Ques": "how many books does he have in total ?",
  "Numbers": "56.0 9.0",
  "Equation": "* number0 number1",
  "Answer": "504.0",
  "id": "r0",
  "line": 2,
}
FIRE = {
  "id": "fire",
  "actor_input": "<|SIT|> Brian notices a fire. <|INT|> Brian wants to be safe."
  " <|I_ACT|> Brian runs. <|NRM|>",
  "actor_output": "You should help others. <|M_ACT|> Brian drags his hose.",
}
ROWS = {
  "snlr": (POPPY, "#0 violet purple #1 poppy happy"),
  "mwp": (BOOKS, "#0: add ( number0, number1 ) | EOS"),
  "moral_stories": (FIRE, "You should run. <|M_ACT|> Brian drags his hose."),
}


def shown(name: str, model: str, size: str) -> str:
  """All that a generator and a critic ever read and are taught to write."""
  path = TOP / "configs" / "refiner" / f"{name}.py"
  config = launch.load_config(f"{path}:model={model},size={size},path=none")
  task, template = build.task(config.task), build.template(config.template)
  row, wrong = ROWS[name]
  problem = task.problem(row)
  question = task.prompt(problem)
  said = task.feedback(problem, wrong)
  parts = {
    "generator, turn 1": template.first(question),
    "critic": template.critique(question, wrong),
    "generator, later turns": template.revision(question, wrong, said),
    "generator's target": (task.target(problem),),
    "critic's target": (said,),
    "critic's target when right": (task.no_hint,),
  }
  return "".join(
    f"[{key}]\n{'|'.join(value)}[end]\n" for key, value in parts.items()
  )


def _cases():
  for name in ROWS:
    for size in SIZES:
      for model in MODELS:
        if (size, model) != ("small", "flan"):
          yield name, model, size


def _text(name: str) -> str:
  return "\n".join(
    f"== {model}, {size}\n{shown(name, model, size)}"
    for other, model, size in _cases()
    if other == name
  )


@pytest.mark.parametrize("name", ROWS)
def test_prompts_are_what_they_were(name):
  golden = (GOLDEN / f"refiner_{name}.txt").read_text(encoding="utf-8")
  assert _text(name) == golden


if __name__ == "__main__":
  GOLDEN.mkdir(exist_ok=True)
  for task_name in ROWS:
    target = GOLDEN / f"refiner_{task_name}.txt"
    target.write_text(_text(task_name), encoding="utf-8")
