"""Tests of the plan, the store and the tables; no run of mxc. python3 -m unittest discover -s scripts/recovery"""

import gzip
import pathlib
import struct
import tempfile
import unittest

import plan
import run
import table

NETWORKS = [plan.Network(name, f"{name}.onnx", "data", 2, ()) for name in ("a", "b", "c")]


class Plan(unittest.TestCase):
    def test_every_cell_is_there_once(self):
        rows = plan.rows(NETWORKS)
        self.assertEqual(len(rows), len(set(rows)))
        chosen = len(NETWORKS) * len(plan.NOISES) * len(plan.IMAGES) * len(plan.METHODS) * len(plan.SEEDS)
        swept = len(NETWORKS) * 2 * len(plan.SIGMAS) * len(plan.SEEDS)
        self.assertEqual(len(rows), chosen + swept)
        self.assertEqual(len({row.name for row in rows}), len(rows))

    def test_the_first_rows_compare_methods(self):
        mxc = [method for method in plan.METHODS if not method.script]
        first = plan.rows(NETWORKS)[: len(mxc)]
        self.assertEqual([row.method for row in first], mxc)
        self.assertEqual({row.cell[:4] for row in first}, {("a", "range-rms", 64, None)})

    def test_globs(self):
        rows = plan.rows(NETWORKS)
        self.assertEqual({row.network.name for row in plan.chosen(rows, ["a/*", "b/*"])}, {"a", "b"})
        self.assertEqual(len(plan.chosen(rows, ["a/signal/512/best/0"])), 1)
        self.assertEqual(plan.chosen(rows, []), rows)

    def test_estimates_come_from_the_most_similar_rows(self):
        rows = plan.chosen(plan.rows(NETWORKS), ["a/range-rms/*/affine/*"])
        by_images = {row.images: row for row in rows}
        self.assertIsNone(plan.estimate(rows[0], []))
        finished = [(by_images[64], 10.0), (by_images[512], 30.0)]
        self.assertEqual(plan.estimate(by_images[64], finished), 10.0)
        self.assertEqual(plan.estimate(by_images[None], finished), 20.0)

    def test_equal_budgets(self):
        own = [method.name for method in plan.METHODS if "--budget" in method.compile]
        self.assertEqual(own, ["scales"])


class Store(unittest.TestCase):
    def test_a_failed_run_leaves_nothing_and_a_finished_one_is_not_repeated(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "runs" / "x.json"

            def fails() -> dict:
                raise KeyboardInterrupt

            with self.assertRaises(KeyboardInterrupt):
                run.stored(path, fails)
            self.assertIsNone(run.stored(path, None))
            self.assertEqual(run.stored(path, lambda: {"a": 1}), {"a": 1})
            self.assertEqual(run.stored(path, fails), {"a": 1})
            self.assertEqual([file.name for file in path.parent.iterdir()], ["x.json"])

    def test_a_subset_is_of_the_images_that_are_not_held_out(self):
        images = [bytes([i] * 4) for i in range(6)]
        row = plan.Row(NETWORKS[0], plan.NOISES[0], 3, None, plan.METHODS[0], 1)
        with tempfile.TemporaryDirectory() as folder:
            source, out = pathlib.Path(folder) / "source", pathlib.Path(folder) / "out"
            source.mkdir()
            out.mkdir()
            with gzip.open(source / "train-images-idx3-ubyte.gz", "wb") as file:
                file.write(struct.pack(">HBB3I", 0, 8, 3, 6, 2, 2) + b"".join(images))
            (source / "train-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, 6) + bytes(range(6)))
            (source / "t10k-labels-idx1-ubyte").write_bytes(b"")
            run.subset_of_idx(source, out, row)
            labels = (out / "train-labels-idx1-ubyte").read_bytes()[8:]
            self.assertEqual(len(set(labels)), 3)
            self.assertLess(max(labels), 4)
            self.assertEqual((out / "train-images-idx3-ubyte").read_bytes()[16:], b"".join(images[i] for i in labels))
            self.assertTrue((out / "t10k-labels-idx1-ubyte").exists())
        more = plan.Row(NETWORKS[0], plan.NOISES[0], 4, None, plan.METHODS[0], 1)
        self.assertEqual(run.draw(6, more)[:3], run.draw(6, row))


class Table(unittest.TestCase):
    def test_intervals_are_students_t(self):
        self.assertAlmostEqual(table.interval([1, 2, 3, 4, 5]), 2.776 * (2.5 / 5) ** 0.5)
        self.assertIsNone(table.interval([1]))

    def test_seeds_are_averaged(self):
        rows = [plan.Row(NETWORKS[0], plan.NOISES[0], 64, None, plan.METHODS[1], seed) for seed in (0, 1)]
        record = {
            "sigma": 26,
            "clean": {"top1": 90.0},
            "noisy": {"top1": 80.0},
            "clean_denoised": {"top1": 89.0},
            "parameters": {"overhead_percent": 1.0, "column_shifts": 8, "overhead_with_shifts_percent": 1.5},
        }
        results = [
            (row, record | {"denoised": {"top1": top1, "runs": [top1, top1]}, "recovered_percent": 10 * (top1 - 80)})
            for row, top1 in zip(rows, (84.0, 86.0))
        ]
        text = table.markdown(results, [method.name for method in plan.METHODS])
        self.assertIn("| bias | 1.00 (1.50) | 50.0 ± 127.1 |", text)
        self.assertIn("| bias | 64 | 2 | 80.00 ± 0.00 | 85.00 ± 12.71 |", text)


if __name__ == "__main__":
    unittest.main()
