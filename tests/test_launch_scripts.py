"""The launch scripts' dry runs, and processes that die."""

import os
import pathlib
import shlex
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


POD = ("--name=n", "--zone=z", "--type=v5litepod-16")


def test_a_pod():
  made = run("tpu_pod.sh", *POD, "--spot", "--setup=S", "--dry_run", *STAGE)
  assert made.returncode == 0, made.stderr
  lines = [x for x in made.stdout.splitlines() if not x.startswith("#")]
  _, look, create, _, *lines = lines
  worker, _, archive, _, _, copy, setup, install, *stage, ask, _ = lines
  assert look.startswith("gcloud compute tpus tpu-vm describe n --zone=z")
  assert create.startswith("gcloud compute tpus tpu-vm create n --zone=z")
  assert "--spot" in create
  assert "tpu_worker.sh" in worker
  assert "archive" in archive
  assert "scp" in copy
  assert "--worker=all" in setup and setup.strip().endswith("--command=S")
  assert "--worker=all" in install and "--python\\ 3.12" in install
  start, follow = stage
  assert "train_reft" in start and "--worker=all" in start
  assert "--worker=0" in follow and "--worker=0" in ask
  assert "ServerAliveInterval" in follow


def test_a_queued_pod_is_given_back():
  wanted = ("--name=n", "--zone=z", "--type=v5p-8", "--queued", "--delete")
  made = run("tpu_pod.sh", *wanted, "--slices=2", "--dry_run", *STAGE)
  lines = made.stdout.splitlines()
  first = "gcloud compute tpus queued-resources create n --zone=z"
  (create,) = [line for line in lines if line.startswith(first)]
  assert "--node-count=2 --node-prefix=n" in create
  for node in ("n-0", "n-1"):  # each is copied to, installed, started
    assert sum(f" {node}" in x and "--worker=all" in x for x in lines) == 3
    assert any(f"tpu-vm describe {node} " in x for x in lines)
  delete, _ = lines[-2:]
  assert delete.startswith("gcloud compute tpus queued-resources delete n")


def test_a_pods_secrets_are_not_shown():
  wanted = (*POD, "--env=HF_TOKEN", "--dry_run", *STAGE)
  made = run("tpu_pod.sh", *wanted, HF_TOKEN="hf_secret")
  assert "HF_TOKEN=" in made.stdout
  assert "hf_secret" not in made.stdout + made.stderr


@pytest.mark.parametrize(
  ("flags", "cache"),
  [
    (("--workdir", "gs://b/run"), "gs://b/.xla"),
    (("-workdir=/mnt/a/run", "--config=c"), "/mnt/a/.xla"),
    (("--config=c",), r"\$HOME/.xla"),
  ],
)
def test_a_pods_programs_lie_beside_its_workdir(flags, cache):
  made = run("tpu_pod.sh", *POD, "--dry_run", *STAGE, *flags)
  assert f" JAX_COMPILATION_CACHE_DIR={cache} " in made.stdout


# A cloud of one worker, whose home is a folder here. What a line of
# plan.<event> says happens at that event.
GCLOUD = r"""
verb=${4#*:}
kind=$3
order=
for word in "$@"; do
  case $word in --command=*) order=${word#--command=} ;; esac
done
case $order in
  *uv\ pip*) verb=install ;;
  *pod.sh\ ask*) verb=ask ;;
  *pod.sh\ follow*) verb=follow ;;
  *pod.sh\ start*) verb=start ;;
  *pod.log) verb=logs ;;
esac
echo "$kind $verb" >>"$STATE/calls"
event() {
  local line
  line=$(head -n 1 "$STATE/plan.$1" 2>/dev/null)
  sed -i 1d "$STATE/plan.$1" 2>/dev/null
  eval "$line"
}
event "$verb"
thing=$STATE/node
if [[ $kind == queued-resources ]]; then thing=$STATE/queue; fi
case $verb in
  describe)
    if [[ ! -e $thing ]]; then
      echo "ERROR: (gcloud) NOT_FOUND: $kind was not found" >&2
      exit 1
    fi
    cat "$thing"
    ;;
  create)
    [[ $kind == tpu-vm ]] || echo ACTIVE >"$STATE/queue"
    echo READY >"$STATE/node"
    ;;
  delete) # with all that runs there
    kill -KILL -- "-$(cat "$STATE/home/pod.pid" 2>/dev/null)" 2>/dev/null
    rm -rf "$STATE/queue" "$STATE/node" "$STATE/home"
    mkdir "$STATE/home"
    ;;
  scp) cp "$5" "$STATE/home/pod.tar" ;;
  *)
    [[ $(cat "$STATE/node") == READY ]] || exit 1
    cd "$STATE/home" && HOME=$STATE/home bash -c "$order"
    ;;
esac
"""
# Installs nothing; its python is the stage.
UV = r"""
if [[ $1 == venv ]]; then
  mkdir -p venv/bin
  cp "$STATE/bin/stage" venv/bin/python
fi
"""
RUNS = r"""
echo "stage $*" >>"$STATE/calls"
line=$(head -n 1 "$STATE/plan.stage" 2>/dev/null)
sed -i 1d "$STATE/plan.stage" 2>/dev/null
eval "$line"
"""


class Cloud:
  def __init__(self, folder):
    self.folder = folder
    (folder / "home").mkdir()
    (folder / "bin").mkdir()
    for name, body in {"gcloud": GCLOUD, "uv": UV, "stage": RUNS}.items():
      path = folder / "bin" / name
      path.write_text(f"#!/usr/bin/env bash\n{body}")
      path.chmod(0o755)
    self.environment = {
      "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
      "STATE": str(folder),
      "REFINE_JAX_POLL": "0",
    }

  def run(self, *arguments, node="", queue="", what=STAGE, **plan):
    for name, state in (("node", node), ("queue", queue)):
      if state:
        (self.folder / name).write_text(state + "\n")
    for event, lines in plan.items():
      text = "".join(line + "\n" for line in lines)
      (self.folder / f"plan.{event}").write_text(text)
    self.made = run(
      "tpu_pod.sh", *(*POD, *arguments, *what), **self.environment
    )
    return self.made

  @property
  def calls(self):
    """What was asked of the cloud and its worker, looks left out."""
    calls = (self.folder / "calls").read_text().splitlines()
    said = [x.removeprefix("tpu-vm ").split(" -m ")[0] for x in calls]
    quiet = ("describe", "queued-resources describe", "ask")
    return [x for x in said if x not in quiet]


@pytest.fixture
def cloud(tmp_path):
  if not (SCRIPTS.parent / ".git").exists():
    pytest.skip("a pod gets what git has")
  return Cloud(tmp_path)


STARTED = ["scp", "install", "start", "stage", "follow"]


def test_a_slice_that_is_not_there_is_made(cloud):
  made = cloud.run(stage=["echo learning $REFINE_JAX_DATA; echo $*"])
  assert made.returncode == 0, made.stderr
  assert sorted(cloud.calls) == sorted(["create", *STARTED])
  assert "learning /mnt/shared/data" in made.stdout
  assert "--config=c.py:a=1,b='x y' --distributed" in made.stdout


def test_a_dry_run_can_be_typed(cloud, monkeypatch):
  monkeypatch.setenv("HF_TOKEN", "hf secret")
  wanted = ("--env=HF_TOKEN", "--delete", "--dry_run")
  made = cloud.run(*wanted, stage=['echo "with $HF_TOKEN"'])
  assert not (cloud.folder / "calls").exists()
  typed = subprocess.run(
    ["bash", "-c", made.stdout],
    capture_output=True,
    text=True,
    env={**os.environ, **cloud.environment, "TMPDIR": str(cloud.folder)},
    timeout=60,
  )
  assert sorted(cloud.calls) == sorted(["create", *STARTED, "delete"])
  assert "with hf secret" in typed.stdout
  assert not [*cloud.folder.glob("tmp.*")]


def test_a_slice_that_is_there_is_installed(cloud):
  made = cloud.run("--setup=echo mounted >disk", node="READY")
  assert made.returncode == 0, made.stderr
  assert sorted(cloud.calls) == sorted(["ssh", *STARTED])
  assert (cloud.folder / "home" / "disk").read_text() == "mounted\n"


@pytest.mark.parametrize("state", ["PREEMPTED", "TERMINATED", "STOPPED"])
def test_what_is_left_of_a_slice_is_deleted(cloud, state):
  made = cloud.run(node=state)
  assert made.returncode == 0, made.stderr
  assert cloud.calls[:3] == ["delete", "create", "scp"]


def test_a_slice_that_starts_is_waited_for(cloud):
  ready = 'echo READY >"$STATE/node"'
  made = cloud.run(node="STARTING", describe=["", "", ready])
  assert made.returncode == 0, made.stderr
  assert "delete" not in cloud.calls and "create" not in cloud.calls


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_a_request_that_ended_is_made_again(cloud, state):
  made = cloud.run("--queued", queue=state)
  assert made.returncode == 0, made.stderr
  queue = "queued-resources"
  assert cloud.calls[:3] == [f"{queue} delete", f"{queue} create", "scp"]


def test_a_request_waits_in_the_queue(cloud):
  given = 'echo ACTIVE >"$STATE/queue"; echo READY >"$STATE/node"'
  made = cloud.run(
    "--queued", queue="WAITING_FOR_RESOURCES", describe=["", "", "", given]
  )
  assert made.returncode == 0, made.stderr
  assert "n is WAITING_FOR_RESOURCES" in made.stderr
  assert cloud.calls[0] == "scp"


def test_a_request_that_always_fails_is_told(cloud):
  failed = 'echo FAILED >"$STATE/queue"; exit'
  made = cloud.run("--queued", queue="FAILED", create=[failed] * 9)
  assert made.returncode == 1
  assert "again and again" in made.stderr
  assert cloud.calls.count("queued-resources create") == 4


def test_a_slice_that_is_preempted_under_a_stage(cloud):
  begun = "until [[ -e $STATE/begun ]]; do sleep 0.1; done"
  gone = f'{begun}; echo PREEMPTED >"$STATE/node"; exit 255'
  made = cloud.run(follow=[gone], stage=["touch $STATE/begun; sleep 60"])
  assert made.returncode == 0, made.stderr
  again = ["delete", "create", *STARTED]
  assert sorted(cloud.calls) == sorted(["create", *STARTED, *again])


def test_a_connection_that_drops_is_made_again(cloud):
  made = cloud.run(
    node="READY",
    follow=["exit 255", "exit 255"],
    ask=["", "exit 255"],  # the first is before the start
    stage=["sleep 1; echo learned"],
  )
  assert made.returncode == 0, made.stderr
  assert cloud.calls.count("stage") == 1
  assert "no connection; the slice is well" in made.stderr
  assert "learned" in made.stdout


def test_a_stage_that_runs_is_followed(cloud):
  """The script was ended, and is started again."""
  waits = "until [[ -e $STATE/enough ]]; do sleep 0.1; done; echo learned"
  cloud.run(node="READY", follow=["kill $PPID; exit"], stage=[waits])
  assert cloud.made.returncode == 130
  assert "the same command follows it" in cloud.made.stderr
  busy = cloud.run(what=("--", "refine_jax.stages.another"))
  assert busy.returncode == 2
  assert "n is busy: refine_jax.stages.train_reft" in busy.stderr
  made = cloud.run(follow=["touch $STATE/enough"])
  assert made.returncode == 0, made.stderr
  assert "learned" in made.stdout
  assert cloud.calls.count("stage") == cloud.calls.count("install") == 1


def test_a_stage_that_nobody_hears_of_is_started_again(cloud):
  made = cloud.run(
    node="READY",
    follow=["exit 255"] * 20,
    ask=["", *["exit 255"] * 23],
    # The start of another ends it first.
    stage=["sleep 60; echo never", "[[ ! -e $STATE/home/pod.code ]]"],
  )
  assert made.returncode == 0, made.stderr
  assert "nobody answers" in made.stderr
  assert "never" not in made.stdout
  assert cloud.calls.count("stage") == 2


def test_a_slice_that_cannot_be_made(cloud):
  made = cloud.run("--delete", create=["echo no quota >&2; exit 1"] * 99)
  assert made.returncode == 1
  assert "no quota" in made.stderr
  assert cloud.calls == ["create"] * 10


def test_who_may_not_look_is_told(cloud):
  refused = "echo ERROR: PERMISSION_DENIED >&2; exit 1"
  made = cloud.run("--delete", node="READY", describe=[refused] * 99)
  assert made.returncode == 1
  assert "PERMISSION_DENIED" in made.stderr
  assert cloud.calls == []


@pytest.mark.parametrize("code", [1, 2])
def test_a_stage_that_fails_gives_the_slice_back(cloud, code):
  made = cloud.run("--delete", stage=[f"echo I failed; exit {code}"])
  assert made.returncode == code
  assert "I failed" in made.stdout
  assert cloud.calls[-1] == "delete"
  assert cloud.calls.count("stage") == 1
  assert not (cloud.folder / "node").exists()


def test_a_stage_that_was_told_to_go_is_started_again(cloud):
  made = cloud.run(node="READY", stage=["exit 143"])
  assert made.returncode == 0, made.stderr
  assert cloud.calls.count("stage") == 2


def test_restarts_are_counted(cloud):
  made = cloud.run("--restarts=1", node="READY", stage=["exit 143"] * 9)
  assert made.returncode == 1
  assert "gave up after 1 restarts" in made.stderr
  assert cloud.calls.count("stage") == 2


def test_a_stage_has_the_passed_on_environment(cloud, monkeypatch):
  monkeypatch.setenv("HF_TOKEN", "hf secret")
  made = cloud.run(
    "--env=HF_TOKEN",
    node="READY",
    what=(*STAGE, "--workdir=/mnt/shared/reft/sft"),
    stage=["echo $HF_TOKEN >token; echo $JAX_COMPILATION_CACHE_DIR >cache"],
  )
  assert made.returncode == 0, made.stderr
  home = cloud.folder / "home"
  assert (home / "refine_jax" / "token").read_text() == "hf secret\n"
  cache = (home / "refine_jax" / "cache").read_text()
  assert cache == "/mnt/shared/reft/.xla\n"
  assert (home / "pod.env").stat().st_mode & 0o77 == 0


def batch_script(*wanted):
  """What slurm.sh would submit."""
  made = run("slurm.sh", *wanted, "--dry_run", *STAGE)
  assert made.returncode == 0, made.stderr
  _, text = made.stdout.split("sbatch <<'END'\n")
  return text.removesuffix("END\n")


def test_slurm():
  text = batch_script("--nodes=2", "--gpus=8", "--partition=p")
  for line in ("#SBATCH --nodes=2", '#SBATCH --partition="p"'):
    assert line in text.splitlines()
  assert r"--config=c.py:a=1\,b=\'x\ y\' --distributed" in text
  # Else JAX takes one GPU of each node, and Slurm one core.
  assert "export JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7" in text.splitlines()
  assert "srun --cpu-bind=none" in text


def directives(text):
  """What sbatch is told in the text of a dry run."""
  lines = text.splitlines()
  said = [x.removeprefix("#SBATCH ") for x in lines if x.startswith("#SBATCH")]
  return shlex.split("\n".join(said))


def test_slurm_takes_spaces():
  names = ("--job_name=a b", "--partition=p q", "--account=c d")
  wanted = ("--nodes=1", "--gpus=1", "--logs=/tmp/x y", *names)
  made = run("slurm.sh", *wanted, "--dry_run", *STAGE)
  assert made.stdout.startswith("mkdir -p /tmp/x\\ y\n")
  said = directives(made.stdout)
  assert "--output=/tmp/x y/%x-%j.log" in said
  assert {"--job-name=a b", "--partition=p q", "--account=c d"} <= {*said}


def test_slurm_in_a_checkout_with_a_space(tmp_path):
  top = tmp_path / "check out"
  shutil.copytree(SCRIPTS, top / "launch_scripts")
  script = str(top / "launch_scripts" / "slurm.sh")
  made = run(script, "--nodes=1", "--gpus=1", "--dry_run", *STAGE)
  made_folder, *_ = made.stdout.splitlines()
  assert shlex.split(made_folder) == ["mkdir", "-p", f"{top}/workdir/logs"]
  assert f"--output={top}/workdir/logs/%x-%j.log" in directives(made.stdout)


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


JOBSET = (
  *("--name=n", "--image=i", "--claim=c", "--topology=4x4"),
  "--accelerator=tpu-v5",
)


def test_kubernetes():
  yaml = pytest.importorskip("yaml")
  made = run("k8s/jobset.sh", *JOBSET, "--dry_run", *STAGE)
  assert made.returncode == 0, made.stderr
  _, text = made.stdout.split("\n", 1)
  spec = yaml.safe_load(text.rsplit("END", 1)[0])["spec"]
  (job,) = spec["replicatedJobs"]
  assert job["template"]["spec"]["parallelism"] == 4  # 16 chips, 4 a host
  pod = job["template"]["spec"]["template"]["spec"]
  (container,) = pod["containers"]
  assert container["command"] == ["python", "-m", *STAGE[1:], "--distributed"]
  # Without such a secret the pods start all the same.
  secret = {"name": "refine-jax", "optional": True}
  assert container["envFrom"] == [{"secretRef": secret}]
  # What launch.refuse ends with fails the whole, once.
  (rule,) = job["template"]["spec"]["podFailurePolicy"]["rules"]
  assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2])
  assert rule["onExitCodes"]["containerName"] == container["name"]
  (rule,) = spec["failurePolicy"]["rules"]
  assert rule["action"] == "FailJobSet"
  assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
  assert "@" not in text


def test_an_ampersand_is_one():
  made = run("k8s/jobset.sh", *JOBSET, "--image=a&b", "--dry_run", *STAGE)
  assert "image: a&b\n" in made.stdout


@pytest.mark.parametrize(
  ("script", "arguments", "word"),
  [
    ("tpu_pod.sh", ("--name=n",), "--zone is missing"),
    ("tpu_pod.sh", ("--nmae=n",), "unknown argument --nmae"),
    ("slurm.sh", ("--nodes=two",), "--nodes is a number"),
    (
      "slurm.sh",
      ("--nodes=1", "--gpus=1", '--logs=/a"b', *STAGE),
      "sbatch would misread",
    ),
    ("tpu_pod.sh", (*POD, "--slices=2", *STAGE), "--slices needs --queued"),
    ("tpu_pod.sh", (*POD, "--env=A=b", *STAGE), "--env=NAME, not its value"),
    ("tpu_pod.sh", (*POD, "--env=NOT_SET", *STAGE), "NOT_SET is not set"),
    ("k8s/jobset.sh", ("--name=n",), "--image is missing"),
    (
      "k8s/jobset.sh",
      (*JOBSET, "--chips_per_host=0", *STAGE),
      "--chips_per_host is a number from 1 on, not 0",
    ),
    (
      "k8s/jobset.sh",
      (*JOBSET, "--topology=2x4", "--chips_per_host=3", *STAGE),
      "the 8 chips of 2x4 are no whole hosts",
    ),
    (
      "k8s/jobset.sh",
      (*JOBSET, "--topology=2x2", "--chips_per_host=8", *STAGE),
      "the 4 chips of 2x2 are no whole hosts",
    ),
    ("k8s/jobset.sh", (*JOBSET, "--topology=08x4", *STAGE), "not 08x4"),
    ("local_multiprocess.sh", ("x", "2", "--", "true"), "on, not x"),
    ("local_multiprocess.sh", ("0", "2", "--", "true"), "on, not 0"),
    (
      "local_multiprocess.sh",
      ("2", "2", "--dry_run", "--"),
      "which command?",
    ),
    ("refiner.sh", ("--seeds=two",), "--seeds is a number"),
    ("reft.sh", ("--jobs=0",), "--jobs is a number from 1 on, not 0"),
    ("rationalyst.sh", ("--first_seed=",), "--first_seed is a number"),
    ("mathcritique.sh", ("--iterations=x",), "--iterations is a number"),
  ],
)
def test_what_is_wrong_is_said(script, arguments, word):
  made = run(script, *arguments)
  assert made.returncode == 2
  assert word in made.stderr
  assert made.stderr.count("\n") == 1


@pytest.mark.parametrize(
  ("script", "arguments", "word"),
  [
    ("local_multiprocess.sh", ("08", "09", "--dry_run", "--", "c"), "count=9 "),
    (
      "tpu_pod.sh",
      (*POD, "--queued", "--slices=09", "--dry_run", *STAGE),
      "--node-count=9 ",
    ),
    ("slurm.sh", ("--nodes=08", "--gpus=1", "--dry_run", *STAGE), "nodes=8\n"),
    (
      "k8s/jobset.sh",
      (*JOBSET, "--restarts=08", "--dry_run", *STAGE),
      "maxRestarts: 8\n",
    ),
  ],
)
def test_numbers_are_decimal(script, arguments, word):
  made = run(script, *arguments)
  assert (made.returncode, made.stderr) == (0, "")
  assert word in made.stdout


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


@pytest.mark.parametrize(
  ("command", "code", "resumes"),
  [
    (("bash", "-c", "exit 1"), 1, True),
    (("bash", "-c", "exit 2"), 2, False),
    (("no-such-command",), 127, False),
  ],
)
def test_a_mistake_is_not_resumed(tmp_path, command, code, resumes):
  made = run(
    "local_multiprocess.sh",
    *("1", "1", "--", *command),
    REFINE_JAX_LOGS=str(tmp_path),
  )
  assert made.returncode == code
  assert ("Run the same command to resume." in made.stderr) == resumes
