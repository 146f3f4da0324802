//! Evaluations in shards, by the program.

use crate::{
    cli::compiled,
    common::{fail, mxc, succeed},
};
use std::fs;

/// The bytes of one process, whatever the number of shards, on the same threads or others; text, too.
#[test]
fn shards_merge_to_the_bytes_of_one_process() {
    let (folder, data) = compiled(&[]);
    let folder = folder.path();
    let common =
        ["eval", "model.mxa", "--seeds", "2", "--chips", "3", "--floor", "80.1", "--limit", "50", "--data", &data];
    let whole = [&["--json"][..], &[]].map(|json| succeed(mxc(folder).args(common).args(json)));
    for of in [1, 2, 7, 64] {
        let parts: Vec<String> = (1..=of).map(|number| format!("part-{number}-of-{of}.json")).collect();
        for (number, part) in (1..).zip(&parts) {
            let threads = if number % 2 == 0 { "1" } else { "2" };
            let shard = format!("{number}/{of}");
            let said = succeed(mxc(folder).args(common).args(["--shard", &shard, "-o", part, "--threads", threads]));
            assert_eq!(said, "", "what a shard has found is no result yet");
        }
        let merged = [&["--json"][..], &[]].map(|json| succeed(mxc(folder).arg("merge").args(json).args(&parts)));
        assert!(merged == whole, "{of} shards: {merged:?} is not {whole:?}");
    }
    // A lost part is made anew, alone.
    fs::remove_file(folder.join("part-3-of-7.json")).unwrap();
    let parts: Vec<String> = (1..=7).filter(|&n| n != 3).map(|number| format!("part-{number}-of-7.json")).collect();
    let message = fail(mxc(folder).arg("merge").args(&parts), 1);
    assert!(message.contains("of 7 shards 3 is missing; run mxc eval with --shard 3/7"), "{message}");
    succeed(mxc(folder).args(common).args(["--shard", "3/7", "-o", "again.json"]));
    assert!(succeed(mxc(folder).args(["merge", "--json", "again.json"]).args(&parts)) == whole[0]);

    // Of another package, seed or noise.
    succeed(mxc(folder).args(["calibrate", "model.mxa", "--samples", "32", "--data", &data, "-o", "other.mxa"]));
    let mut other = common;
    other[1] = "other.mxa";
    succeed(mxc(folder).args(other).args(["--shard", "3/7", "-o", "foreign.json"]));
    let message = fail(mxc(folder).args(["merge", "foreign.json"]).args(&parts), 1);
    assert!(message.contains("is of another evaluation than foreign.json: the package is"), "{message}");
    for (options, what) in [
        (["--seed", "1"], "--seed is `0`, not `1`"),
        (["--digital", "fixed"], "--digital is `float`, not `fixed`"),
        (["--sigma", "3%"], "other samples, noise or draws"),
    ] {
        succeed(mxc(folder).args(common).args(options).args(["--shard", "3/7", "-o", "foreign.json"]));
        let message = fail(mxc(folder).args(["merge", "foreign.json"]).args(&parts), 1);
        assert!(message.contains(what), "{message}");
    }
    let message = fail(mxc(folder).args(["merge", "again.json", "part-1-of-7.json", "again.json"]), 1);
    assert!(message.contains("again.json and again.json are both shard 3/7"), "{message}");
    let message = fail(mxc(folder).args(["merge", "model.mxa"]), 1);
    assert!(message.contains("model.mxa"), "{message}");
    for wrong in [&["--shard", "8/7", "-o", "x.json"][..], &["--shard", "2"], &["-o", "x.json"]] {
        fail(mxc(folder).args(common).args(wrong), 2);
    }
    let message = fail(mxc(folder).args(common).args(["--shard", "1/2", "-o", "model.mxa"]), 1);
    assert!(message.contains("model.mxa"), "{message}");
    assert!(!folder.join("x.json").exists());
}
