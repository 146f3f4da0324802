//! debug
use melior::ir::operation::OperationLike;
fn main() {
    for path in std::env::args().skip(1) {
        let context = mxc_dialects::new_context();
        let t = std::time::Instant::now();
        match mxc_compiler::import::onnx(&context, std::path::Path::new(&path), &Default::default())
        {
            Ok(i) => { if std::env::var("INLINE").is_ok() { mxc_compiler::import::inline_weights(&context, &i.module, &i.weights).unwrap(); assert!(i.module.as_operation().verify()); }
                println!(
                    "{}",
                    i.module
                        .as_operation()
                        .to_string_with_flags(
                            melior::ir::operation::OperationPrintingFlags::new()
                                .enable_debug_info(std::env::var("LOC").is_ok(), true)
                        )
                        .unwrap()
                );
                eprintln!(
                    "{path} ok {:?} {:?} weights {}",
                    t.elapsed(),
                    i.source,
                    i.weights
                        .iter()
                        .map(|(_, w)| w.values().len())
                        .sum::<usize>()
                )
            }
            Err(e) => eprintln!("{path}: {:?}", miette::Report::new(e)),
        }
    }
}
