from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from ztw_rl import cli, deploy, runs
from ztw_rl.supervised.backbones.registry import build_backbone

SMALL = ["--batch-size=16", "--n-epochs=1", "--device=cpu"]
ICS = [*SMALL, "--n-ics=2", "--ensemble.n-epochs=2"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current directory: an empty one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> None:
    assert cli.main(["supervised", *arguments]) == 0


def one_error(capsys, *arguments: str) -> str:
    """The single line on stderr of a command that a user's mistake stops."""
    capsys.readouterr()
    assert cli.main(["supervised", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("error: ")
    return captured.err


def test_from_a_backbone_to_a_table(folder, capsys):
    run("train-backbone", "--n-train=40", "--n-test=20", *SMALL)
    run("train-ics", "--method=sdn", *ICS)
    run("train-ics", "--method=ensemble", "--ics=runs/ics/resnet56-digits-sdn-001", *ICS)
    capsys.readouterr()
    models = [str(p) for p in sorted((folder / "runs" / "ics").iterdir())]
    run("eval", "--models", *models, "--device=cpu")
    assert "budgets.csv" in capsys.readouterr().out
    config = json.loads((folder / "runs/ics/resnet56-digits-sdn-001/config.json").read_text())
    assert config["selected_on"] == "held_out"
    stored = folder / "runs/ics/resnet56-digits-sdn-001/classifier/classifier.json"
    assert json.loads(stored.read_text())["classes"] == list("0123456789")
    output = folder / "runs" / "supervised-eval" / "resnet56-digits-001"
    assert {p.name for p in output.iterdir()} == {
        "budgets.csv",
        "config.json",
        "curve.csv",
        "curve.png",
        "eval.json",
        "exits.csv",
        "exits.png",
    }
    budgets = pd.read_csv(output / "budgets.csv")
    rules = [", margin", ", gate"]
    methods = {f"{method}{rule}" for method in ("sdn", "ensemble") for rule in ("", *rules)}
    assert set(budgets["method"]) == methods | {"backbone", "pbee"}
    exits = pd.read_csv(output / "exits.csv")
    assert exits.groupby("method").size().to_dict() == dict.fromkeys(methods | {"pbee"}, 3)
    # An ensemble on taken-over ICs leaves them as they were.
    sdn, both = (load_file(Path(m) / "classifier" / "weights.safetensors") for m in models[::-1])
    assert all(torch.equal(sdn[k], both[k]) for k in sdn if k.startswith("ics."))
    message = one_error(capsys, "train-ics", f"--ics={models[1]}", "--method=ztw", *ICS)
    assert "whose ICs do not fit ztw" in message
    # Their own training is theirs, whatever this one's would have been.
    sdn_fitted = [f"--ics={models[1]}", "--method=ensemble"]
    run("train-ics", *sdn_fitted, "--ensemble.n-epochs=3", "--device=cpu")
    second = json.loads((folder / "runs/ics/resnet56-digits-ensemble-002/config.json").read_text())
    assert (second["training"]["n_epochs"], second["training"]["ensemble"]["n_epochs"]) == (1, 3)
    bare = ["--method=sdn", "--no-gates"]
    message = one_error(capsys, "train-ics", f"--ics={models[1]}", *bare, *ICS)
    assert "--ics leaves nothing to fit for sdn, which has no ensemble; leave out" in message
    message = one_error(capsys, "train-ics", *sdn_fitted, "--n-epochs=7")
    assert "--n-epochs 7 is not what the ICs of" in message


IMAGES = ["--data=folder", "--data-path=images", "--n-workers=0", "--image-size=64"]
LIBRARY = "--arch=torchvision:resnet18"


@pytest.fixture
def images(folder, encoded) -> Path:
    """Images of two classes and of several sizes; six of each, to train on and to test with."""
    for number, (split, name) in enumerate((s, c) for s in ("train", "val") for c in "ab"):
        place = folder / "images" / split / name
        place.mkdir(parents=True)
        for i in range(6):
            place.joinpath(f"{i}.png").write_bytes(encoded(10 * number + i, 40 + 10 * number))
    return folder / "images"


def test_a_librarys_network_on_a_folder_of_images(folder, images, capsys):
    run("train-backbone", LIBRARY, *IMAGES, *SMALL)
    weights = "runs/backbone/torchvision-resnet18-folder-001/backbone.safetensors"
    assert load_file(weights)["fc.weight"].shape == (2, 512)
    # Network, images and their size follow from the backbone's run.
    run("train-ics", *SMALL, "--ensemble.n-epochs=2")
    first = "runs/ics/torchvision-resnet18-folder-ztw-001"
    config = json.loads((folder / first / "config.json").read_text())
    assert config["arch"] == "torchvision:resnet18"
    assert config["data"]["image_size"] == config["pixels"]["image_size"] == 64
    assert config["selected_on"] == "held_out"
    run("eval", "--models", first, "--device=cpu")
    exits = pd.read_csv("runs/supervised-eval/torchvision-resnet18-folder-001/exits.csv")
    assert exits.groupby("rule").size().to_dict() == {"confidence": 4, "margin": 4, "gate": 4}
    message = one_error(capsys, "train-ics", "--image-size=32", *SMALL)
    assert "--image-size 32 is not the 64 pixels that the network was trained on" in message
    message = one_error(capsys, "train-ics", "--data=cifar10", *SMALL)
    assert "--pixels.image-size follows from the data: 32 for cifar10" in message


def test_a_librarys_weights_in_a_file(folder, images, capsys):
    torch.manual_seed(0)
    torch.save(build_backbone("torchvision:resnet18", 2, 64).state_dict(), "net.pt")
    told = ["--backbone=net.pt", LIBRARY, *IMAGES, *SMALL, "--ensemble.n-epochs=2"]
    run("train-ics", *told)
    run("export", "--threshold=0.5", "--output=net.zip")
    metadata = deploy.load("net.zip").metadata
    assert (metadata["labels"], metadata["input_shape"]) == (["a", "b"], [3, 64, 64])
    assert metadata["images"] == {"channels": "RGB", "size": 64, "centre_crop": 0.875}
    run("bench", "--backends=eager", "--batch-sizes=1", "--n-rounds=1", "--device=cpu")
    # Another number of classes needs another final layer.
    shutil.copytree(images / "train" / "a", images / "train" / "c")
    message = one_error(capsys, "train-ics", *told)
    assert "tells 2 classes apart, but the data have 3; retrain its final layer" in message
    run("train-backbone", LIBRARY, "--init=net.pt", "--trains=head", *IMAGES, *SMALL)
    after = load_file("runs/backbone/torchvision-resnet18-folder-001/backbone.safetensors")
    before = torch.load("net.pt", weights_only=True)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"fc.weight", "fc.bias"}
    assert after["fc.weight"].shape == (3, 512)


def test_bare_resume_passes_over_what_has_no_checkpoint(folder, capsys):
    run("train-backbone", "--n-train=20", *SMALL)
    run("train-ics", "--method=sdn", *ICS)
    for first in ("runs/backbone/resnet56-digits-001", "runs/ics/resnet56-digits-sdn-001"):
        dud = first[:-1] + "2"
        shutil.copytree(first, dud)
        shutil.rmtree(f"{dud}/checkpoints")
        capsys.readouterr()
        command = "train-backbone" if "backbone" in first else "train-ics"
        run(command, "--resume", "--device=cpu")
        assert f"going on in {first}" in capsys.readouterr().err
        shutil.rmtree(dud)
    # Ensembles alone keep no checkpoints, and begin anew.
    run("train-ics", "--method=ensemble", "--ics=runs/ics/resnet56-digits-sdn-001", *ICS)
    capsys.readouterr()
    run("train-ics", "--resume", "--device=cpu")
    assert "going on in runs/ics/resnet56-digits-ensemble-001" in capsys.readouterr().err


def test_transfer_trains_the_final_layer_alone(folder, capsys):
    run("train-backbone", "--n-train=20", *SMALL)
    first = "runs/backbone/resnet56-digits-001/backbone.safetensors"
    run("train-backbone", f"--init={first}", "--trains=head", "--n-train=20", *SMALL)
    before = load_file(first)
    after = load_file("runs/backbone/resnet56-digits-002/backbone.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"linear.weight", "linear.bias"}
    # For another number of classes the final layer begins anew.
    seven = before | {"linear.weight": torch.zeros(7, 64), "linear.bias": torch.zeros(7)}
    torch.save(seven, "seven.pt")
    run("train-backbone", "--init=seven.pt", "--trains=head", "--n-train=20", *SMALL)
    third = load_file("runs/backbone/resnet56-digits-003/backbone.safetensors")
    assert third["linear.weight"].shape == (10, 64)
    assert torch.equal(third["conv1.weight"], before["conv1.weight"])


def test_thresholds_are_chosen_on_images_that_no_initial_weights_saw(folder):
    small = ["--n-train=20", *SMALL]
    fit = ["train-ics", "--method=sdn", *ICS]
    first = "runs/backbone/resnet56-digits-001"
    run("train-backbone", *small)
    run("train-backbone", f"--init={first}", *small)
    run("train-backbone", f"--init={first}", "--split-seed=1", *small)
    run("train-backbone", f"--init={first}/backbone.safetensors", *small)
    run("train-backbone", "--init=runs/backbone/resnet56-digits-003", *small)
    for number, chosen in enumerate(
        ["held_out", "held_out", "cross_fit", "cross_fit", "cross_fit"], start=1
    ):
        # The third holds out other images than the first, and of a file nobody knows.
        run(*fit, f"--backbone=runs/backbone/resnet56-digits-00{number}")
        config = json.loads(
            (folder / f"runs/ics/resnet56-digits-sdn-00{number}/config.json").read_text()
        )
        assert config["selected_on"] == chosen, number


def test_settings_cannot_change_midway(folder, capsys):
    run("train-backbone", "--n-train=20", *SMALL)
    run("train-ics", "--method=sdn", *ICS)
    backbone, ics = "runs/backbone/resnet56-digits-001", "runs/ics/resnet56-digits-sdn-001"
    for command, resumed, flag, message in [
        ("train-backbone", backbone, "--seed=1", f"--seed is 0 in {backbone} and cannot become 1"),
        ("train-backbone", backbone, "--held-out=0", "--held-out is 0.1 in"),
        ("train-backbone", backbone, "--momentum=0", "--momentum is 0.9 in"),
        ("train-ics", ics, "--n-ics=3", "--n-ics is 2 in"),
        ("train-ics", ics, "--ensemble.n-epochs=3", "--ensemble.n-epochs is 2 in"),
        ("train-ics", ics, "another", "--resume takes one run folder, not 2"),
    ]:
        assert message in one_error(capsys, command, "--resume", resumed, flag)
    for command, going_on in (("train-backbone", backbone), ("train-ics", ics)):
        with runs.claimed(Path(going_on)):
            error = one_error(capsys, command, "--resume", going_on)
        assert f"{going_on} is still going on" in error
    # A path may be spelled in another way, and the place may be another.
    same = [f"--backbone={backbone}", "--device=cpu", "--runs-dir=elsewhere"]
    run("train-ics", "--resume", ics, *same)
    run("train-backbone", f"--init={backbone}", "--n-train=20", *SMALL)
    second = "runs/backbone/resnet56-digits-002"
    run("train-backbone", "--resume", second, f"--init={backbone}", "--device=cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train-isc"], "there is no command 'supervised train-isc'; did you mean"),
        (["train-ics"], "there is no run in runs/backbone; begin with"),
        (["train-ics", "--backbone=nowhere.pt"], "neither a file of weights nor a run folder"),
        (["eval"], "there is no run in runs/ics; begin with"),
        (["train-ics", "--methd", "sdn"], "did you mean --method?"),
        (["eval", "--models", "nowhere"], "there is no such folder"),
        (["train-backbone", "--trains=head"], "--trains head needs --init"),
        (["train-backbone", "--data=cifar10", "--data-path=nowhere"], "nowhere is no folder"),
        (["train-backbone", "--data=digits", "--data-path=."], "say what it holds, such as --data"),
        (["train-backbone", "--seed=-1"], "seed must be between 0 and 1000000000, not -1"),
        (["train-backbone", "--pixels.std=inf", "1", "1"], "std must be all above 0 and finite"),
        (["train-backbone", "--pixels.mean=nan", "0", "0"], "mean must be all finite"),
        (["train-backbone", "--resume"], "there is no run in runs/backbone"),
        (["train-backbone", "--pixels.image-size=64"], "follows from the data: 32 for digits"),
        (["train-backbone", "--arch=resnet65"], "no network 'resnet65'; did you mean 'resnet56'?"),
        (["train-backbone", "--arch=timm:nosuch"], "timm has no network 'nosuch'; did you mean"),
        (["train-backbone", "--data=folder"], "--data folder needs --data-path: a folder that"),
        (["train-backbone", "--image-size=64"], "--image-size is for --data folder; leave it out"),
        (
            ["train-backbone", "--arch=torchvision:resnet18", "--init=torchvision"],
            "--init torchvision has weights of resnet50 alone; for torchvision:resnet18 name a",
        ),
        (
            ["train-backbone", "--n-train=2", "--held-out=0.9"],
            "--held-out 0.9 leaves none of 2 images to train on",
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(folder, capsys, arguments, message):
    assert message in one_error(capsys, *arguments)
    assert not list(folder.iterdir())


def test_more_ics_than_blocks_and_another_networks_weights(folder, capsys):
    torch.save(build_backbone("resnet56", 10, 32).state_dict(), "right.pt")
    torch.save(build_backbone("mobilenet", 10, 32).state_dict(), "other.pt")
    torch.save(build_backbone("resnet56", 7, 32).state_dict(), "seven.pt")
    small = ["--n-train=4", *SMALL]
    for file, flag, message in [
        ("right.pt", "--seed=-1", "seed must be between 0 and 1000000000, not -1"),
        ("right.pt", "--n-ics=28", "n_ics is 28, but the network has 27 blocks"),
        ("other.pt", "--n-ics=2", "holds the weights of another network"),
        ("seven.pt", "--n-ics=2", "tells 7 classes apart, but the data have 10"),
    ]:
        assert message in one_error(capsys, "train-ics", f"--backbone={file}", flag, *small)
    assert not (folder / "runs").exists()


def test_help_loads_nothing_heavy():
    program = (
        "import sys; from ztw_rl.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'pandas', 'matplotlib', 'scipy', 'sklearn', 'pyarrow', 'PIL', "
        "'accelerate', 'torchvision'}; print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    for command in ([], ["train-ics"], ["eval"], ["export"], ["bench"]):
        done = subprocess.run(
            [sys.executable, "-c", program, "supervised", *command, "--help"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "heavy: []" in done.stdout, done.stderr


@pytest.mark.slow
def test_two_processes_give_the_ics_of_one(folder):
    torch.manual_seed(0)
    torch.save(build_backbone("resnet56", 10, 32).state_dict(), "backbone.pt")
    command = ["supervised", "train-ics", "--backbone=backbone.pt", "--method=cascade"]
    command += ["--n-train=30", *SMALL, "--n-ics=2"]
    assert cli.main(command) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, "--nproc-per-node=2", "-m", "ztw_rl.cli", *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = [
        load_file(f"runs/ics/resnet56-digits-cascade-00{number}/classifier/weights.safetensors")
        for number in (1, 2)
    ]
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], rtol=1e-3, atol=2e-5, msg=name)


def test_one_row_is_of_one_training_but_for_seeds(folder, capsys):
    run("train-backbone", "--n-train=20", "--n-test=20", *SMALL)
    run("train-ics", "--method=sdn", *ICS)
    run("train-ics", "--method=sdn", *ICS, "--seed=1")
    run("train-ics", "--method=sdn", *ICS, "--learning-rates=0.01", "--milestones")
    one, two, three = (f"runs/ics/resnet56-digits-sdn-00{n}" for n in (1, 2, 3))
    # The same one twice counts once.
    run("eval", "--models", one, f"{one}/classifier", two, "--device=cpu", "--output=out")
    budgets = pd.read_csv("out/budgets.csv")
    assert budgets[budgets["method"] == "sdn"]["n_runs"].unique().tolist() == [2]
    assert json.loads(Path("out/eval.json").read_text())["models"] == [one, two]
    error = one_error(capsys, "eval", "--models", one, three, "--output=out")
    assert f"{three} has another training.learning_rates than {one}" in error
    fewer = Path(two) / "classifier" / "classifier.json"
    fewer.write_text(fewer.read_text().replace('"n_test": 20', '"n_test": 10'))
    error = one_error(capsys, "eval", "--models", one, two)
    assert f"{two} has another data.n_test than {one} (10, not 20); evaluate it apart" in error
    run("eval", "--models", one, two, "--n-test=10", "--device=cpu", "--output=out")


def test_the_run_that_was_resumed_last_is_the_newest(folder, capsys):
    for _ in range(2):
        run("train-backbone", "--n-train=20", *SMALL)
    run("train-backbone", "--resume=runs/backbone/resnet56-digits-001", "--device=cpu")
    capsys.readouterr()
    run("train-backbone", "--resume", "--device=cpu")
    assert "going on in runs/backbone/resnet56-digits-001" in capsys.readouterr().err


def test_an_unfinished_run_is_nobodys_newest(folder, capsys):
    run("train-backbone", "--n-train=20", *SMALL)
    run("train-backbone", "--n-train=20", *SMALL)
    Path("runs/backbone/resnet56-digits-002/backbone.safetensors").unlink()
    error = one_error(capsys, "train-ics", "--backbone=runs/backbone/resnet56-digits-002")
    assert "is not finished; go on with: ztw-rl supervised train-backbone --resume /" in error
    run("train-ics", "--method=sdn", *ICS)
    config = json.loads(Path("runs/ics/resnet56-digits-sdn-001/config.json").read_text())
    assert config["backbone"].endswith("resnet56-digits-001")
    shutil.rmtree("runs/ics/resnet56-digits-sdn-001/classifier")
    error = one_error(capsys, "eval")
    assert "no run in runs/ics is finished; go on with: ztw-rl supervised train-ics" in error


def test_a_run_goes_on_without_the_weights_that_it_began_with(folder):
    run("train-backbone", "--n-train=20", *SMALL)
    run("train-backbone", "--init=runs/backbone/resnet56-digits-001", "--n-train=20", *SMALL)
    run("train-ics", "--method=sdn", "--backbone=runs/backbone/resnet56-digits-001", *ICS)
    shutil.move("runs/backbone/resnet56-digits-001", "elsewhere")
    before = load_file("runs/ics/resnet56-digits-sdn-001/classifier/weights.safetensors")
    run("train-ics", "--resume", "--n-workers=1", "--device=cpu")
    after = load_file("runs/ics/resnet56-digits-sdn-001/classifier/weights.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    run("train-backbone", "--resume=runs/backbone/resnet56-digits-002", "--device=cpu")


def test_help_needs_no_run_to_resume(folder, capsys):
    for command in ("train-backbone", "train-ics"):
        run(command, "--resume", "--help")
        assert "--n-epochs" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_a_training_that_breaks_is_no_success(folder, capsys):
    diverging = ["--learning-rates=1e30", "--milestones"]
    command = ["supervised", "train-backbone", "--n-train=40", *SMALL, *diverging]
    assert cli.main(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: loss or weights of backbone are no finite numbers after")
    assert error.endswith("minibatches; begin a new run with lower --learning-rates")
    assert not list(folder.rglob("backbone.safetensors"))


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_a_last_step_that_breaks_the_weights(folder, capsys):
    """The loss before it says nothing of it."""
    one_step = ["--n-train=40", "--batch-size=40", "--n-epochs=1", "--device=cpu"]
    diverging = ["--learning-rates=3e38", "--milestones"]
    assert cli.main(["supervised", "train-backbone", *one_step, *diverging]) == 2
    assert "loss or weights of backbone" in capsys.readouterr().err
    assert not list(folder.rglob("*.safetensors"))
