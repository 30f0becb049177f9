from __future__ import annotations

from benchmarks.learning import draw


def test_curves_are_told_at_equal_steps(tmp_path, capsys):
    def curve(name, seed, rows):
        (tmp_path / name / seed).mkdir(parents=True)
        head = "time/total_timesteps,time/time_elapsed,rollout/ep_rew_mean"
        (tmp_path / name / seed / "progress.csv").write_text("\n".join([head, *rows]))

    # The second has been stopped early; where the first stood then is between two of its updates.
    curve("SB3", "0", ["100,1,", "200,2,-20", "400,4,-10"])
    curve("ztw-rl", "7", ["100,1,-20", "250,2,-5"])
    draw(tmp_path, n_timesteps=400)
    assert capsys.readouterr().out.splitlines() == [
        "SB3, seed 0: -20.0 after 200, -15.0 after 300, -10.0 after 400 steps; 100 steps/s",
        "ztw-rl, seed 7: -20.0 after 100, -10.0 after 200, -5.0 after 250 steps; 125 steps/s",
    ]
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_a_curve_without_a_finished_game_and_none_at_all(tmp_path, capsys):
    draw(tmp_path / "none", n_timesteps=400)
    (tmp_path / "SB3" / "0").mkdir(parents=True)
    (tmp_path / "SB3" / "0" / "progress.csv").write_text("time/total_timesteps\n100\n")
    draw(tmp_path, n_timesteps=400)
    assert capsys.readouterr().out == "SB3, seed 0: no game has ended yet\n"
