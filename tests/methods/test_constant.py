from refine_jax.methods import evaluation
from refine_jax.tasks import arithmetic


def test_the_constant_is_the_answer_that_is_right_most_often():
  task = arithmetic.Arithmetic(difficulty=1, form="text", size=40)
  problems = [task.problem(row) for row in task.source("train").rows]
  rare, common = problems[0].gold, "answer 0"
  # What is commonest to train on need not be right on these problems.
  answers = [common] * 5 + [rare]
  assert evaluation.constant(task, problems, answers) == rare
  # Only the commonest are tried.
  assert evaluation.constant(task, problems, answers, tries=1) == common
