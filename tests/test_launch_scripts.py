"""The launch scripts' dry runs, and processes that die."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

SCRIPTS = pathlib.Path(__file__).parent.parent / "launch_scripts"
STAGE = ("--", "refine_jax.stages.train_reft", "--config=c.py:a=1,b='x y'")


def run(script, *arguments, **environment):
  return subprocess.run(
    ["bash", str(SCRIPTS / script), *arguments],
    capture_output=True,
    text=True,
    env={**os.environ, **environment},
    timeout=60,
  )


@pytest.mark.skipif(
  shutil.which("shellcheck") is None, reason="shellcheck is not installed"
)
def test_shellcheck():
  files = [*SCRIPTS.glob("*.sh"), *SCRIPTS.glob("k8s/*.sh")]
  made = subprocess.run(
    ["shellcheck", "-x", "-P", str(SCRIPTS.parent), *map(str, files)],
    capture_output=True,
    text=True,
  )
  assert made.returncode == 0, made.stdout


def test_a_pod():
  wanted = ("--name=n", "--zone=z", "--type=v5litepod-16")
  made = run("tpu_pod.sh", *wanted, "--spot", "--dry_run", *STAGE)
  assert made.returncode == 0, made.stderr
  create, archive, copy, install, stage = made.stdout.splitlines()
  assert create.startswith("gcloud compute tpus tpu-vm create n --zone=z")
  assert "--spot" in create
  assert "archive" in archive
  assert "scp" in copy
  assert "--worker=all" in install
  assert "train_reft" in stage
  assert "--distributed" in stage


def test_a_queued_pod_is_given_back():
  wanted = ("--name=n", "--zone=z", "--type=v5p-8", "--queued", "--delete")
  made = run("tpu_pod.sh", *wanted, "--dry_run", *STAGE)
  first, *_, last = made.stdout.splitlines()
  assert first.startswith("gcloud compute tpus queued-resources create n")
  assert last.startswith("gcloud compute tpus queued-resources delete n")


def batch_script(*wanted):
  """What slurm.sh would submit."""
  made = run("slurm.sh", *wanted, "--dry_run", *STAGE)
  assert made.returncode == 0, made.stderr
  _, text = made.stdout.split("sbatch <<'END'\n")
  return text.removesuffix("END\n")


def test_slurm():
  text = batch_script("--nodes=2", "--gpus=8", "--partition=p")
  for line in ("#SBATCH --nodes=2", "#SBATCH --partition=p"):
    assert line in text.splitlines()
  assert r"--config=c.py:a=1\,b=\'x\ y\' --distributed" in text
  # Else JAX takes one GPU of each node, and Slurm one core.
  assert "export JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7" in text.splitlines()
  assert "srun --cpu-bind=none" in text


SLURM = {
  "srun": """trap 'echo srun was killed; exit 9' TERM
touch $STATE/begun
for ((i = 0; i < 100; i++)); do
  if [[ -e $STATE/told ]]; then echo saved; exit 143; fi
  sleep 0.1
done""",
  "scancel": "echo scancel $*; touch $STATE/told",
  "scontrol": "echo scontrol $*",
}


def test_slurm_tells_the_tasks_before_the_end(tmp_path):
  text = batch_script("--nodes=1", "--gpus=1")
  for name, body in SLURM.items():
    (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
    (tmp_path / name).chmod(0o755)
  job = subprocess.Popen(
    ["bash", "-c", text.replace("export PATH=", "export PATH=$STATE:")],
    env={**os.environ, "STATE": str(tmp_path), "SLURM_JOB_ID": "7"},
    stdout=subprocess.PIPE,
    text=True,
  )
  while not (tmp_path / "begun").exists():
    time.sleep(0.1)
  time.sleep(0.5)
  job.terminate()
  said, _ = job.communicate(timeout=30)
  assert said.splitlines() == [
    "scancel --signal=TERM 7.0",
    "saved",
    "scontrol requeue 7",
  ]
  assert job.returncode == 143


def test_kubernetes():
  yaml = pytest.importorskip("yaml")
  wanted = ("--name=n", "--image=i", "--claim=c", "--topology=4x4")
  made = run(
    "k8s/jobset.sh", *wanted, "--accelerator=tpu-v5", "--dry_run", *STAGE
  )
  assert made.returncode == 0, made.stderr
  _, text = made.stdout.split("\n", 1)
  (job,) = yaml.safe_load(text.rsplit("END", 1)[0])["spec"]["replicatedJobs"]
  assert job["template"]["spec"]["parallelism"] == 4  # 16 chips, 4 a host
  pod = job["template"]["spec"]["template"]["spec"]
  assert pod["containers"][0]["command"] == [
    *("python", "-m", *STAGE[1:], "--distributed")
  ]
  assert "@" not in text


@pytest.mark.parametrize(
  ("script", "arguments", "word"),
  [
    ("tpu_pod.sh", ("--name=n",), "--zone is missing"),
    ("tpu_pod.sh", ("--nmae=n",), "unknown argument --nmae"),
    ("slurm.sh", ("--nodes=two",), "--nodes is a number"),
    ("k8s/jobset.sh", ("--name=n",), "--image is missing"),
    ("local_multiprocess.sh", ("x", "2", "--", "true"), "x is no number"),
  ],
)
def test_what_is_wrong_is_said(script, arguments, word):
  made = run(script, *arguments)
  assert made.returncode == 2
  assert word in made.stderr


def test_processes_are_told_who_they_are():
  code = (
    "import os, sys; n = os.environ; print(n['REFINE_JAX_PROCESS'],"
    " n['REFINE_JAX_PROCESSES'], n['XLA_FLAGS'], sys.argv[1:])"
  )
  made = run(
    "local_multiprocess.sh",
    *("2", "4", "--", sys.executable, "-c", code),
    XLA_FLAGS="",
  )
  assert made.returncode == 0, made.stderr
  assert made.stdout.startswith("0 2")
  assert "device_count=4" in made.stdout
  assert "['--distributed']" in made.stdout


@pytest.mark.parametrize("given", ["", "/elsewhere"])
def test_processes_compile_once(given):
  made = run(
    "local_multiprocess.sh",
    *("1", "1", "--dry_run", "--", "true"),
    JAX_COMPILATION_CACHE_DIR=given,
  )
  folder = given or SCRIPTS.parent / "workdir" / ".xla"
  assert f" JAX_COMPILATION_CACHE_DIR={folder} " in made.stdout


def test_one_that_dies_ends_the_others(tmp_path):
  code = (
    "import os, sys, time\n"
    "if os.environ['REFINE_JAX_PROCESS'] == '1': sys.exit('I am gone')\n"
    "time.sleep(100)"
  )
  begun = time.monotonic()
  made = run(
    "local_multiprocess.sh",
    *("3", "1", "--", sys.executable, "-c", code),
    REFINE_JAX_LOGS=str(tmp_path),
  )
  assert time.monotonic() - begun < 30
  assert made.returncode == 1
  assert "process 1 of 3 ended with code 1" in made.stderr
  assert "I am gone" in made.stderr
