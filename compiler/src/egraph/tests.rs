//! What the e-graph finds beyond a greedy rewriter with a fixed order of rules.

use super::{
    analysis::Graph,
    extract::{Program, extract},
    facts::Facts,
    import::{count_uses, read},
    language::{Binary, Node, Op},
    rules::{RULES, Rule, rewrites_of},
};
use egg::{Id, Runner, SimpleScheduler};
use mxc_runtime::store::WeightStore;
use std::{collections::BTreeMap, time::Duration};

fn saturate(egraph: Graph, rules: &[Rule]) -> Graph {
    Runner::<Node, Facts>::new(Facts::default())
        .with_egraph(egraph)
        .with_iter_limit(60)
        .with_node_limit(100_000)
        .with_time_limit(Duration::MAX)
        .with_scheduler(SimpleScheduler)
        .run(&rewrites_of(rules))
        .egraph
}

/// An e-graph that holds one program and nothing else.
fn alone(egraph: &Graph, program: &Program, roots: &[Id]) -> (Graph, Vec<Id>) {
    let mut fresh = Graph::new(egraph.analysis.clone());
    let mut moved: BTreeMap<Id, Id> = BTreeMap::new();
    for &id in &program.order {
        let mut node = program.node(egraph, id).expect("chosen").clone();
        for child in &mut node.children {
            *child = moved[&egraph.find(*child)];
        }
        moved.insert(id, fresh.add(node));
    }
    fresh.rebuild();
    let roots: Vec<Id> = roots.iter().map(|root| moved[&egraph.find(*root)]).collect();
    count_uses(&mut fresh, &roots);
    (fresh, roots)
}

/// Applies one rule at a time, in order, as often as it helps, and keeps only the cheaper program; until no rule helps.
fn greedy(egraph: Graph, roots: &[Id]) -> u64 {
    let program = extract(&egraph, roots).expect("a program");
    let (mut egraph, mut roots) = alone(&egraph, &program, roots);
    let mut cost = program.cost;
    loop {
        let before = cost;
        for rule in RULES {
            let tried = saturate(egraph.clone(), std::slice::from_ref(rule));
            let program = extract(&tried, &roots).expect("a program");
            if program.cost < cost {
                cost = program.cost;
                (egraph, roots) = alone(&tried, &program, &roots);
            }
        }
        if cost == before {
            return cost;
        }
    }
}

const CONVOLUTION: &str = r#"
  %w = "tosa.const"() {values = dense<[[[[1.0, 2.0]]], [[[3.0, 4.0]]]]> : tensor<2x1x1x2xf32>} : () -> tensor<2x1x1x2xf32>
  %b = "tosa.const"() {values = dense<[1.0, 2.0]> : tensor<2xf32>} : () -> tensor<2xf32>
  %z = "tosa.const"() {values = dense<0.0> : tensor<1xf32>} : () -> tensor<1xf32>
  %k = "tosa.const"() {values = dense<[[[[10.0, 20.0]]]]> : tensor<1x1x1x2xf32>} : () -> tensor<1x1x1x2xf32>
  %c = tosa.conv2d %x, %w, %b, %z, %z {acc_type = f32, pad = array<i64: 0, 0, 0, 0>, stride = array<i64: 1, 1>, dilation = array<i64: 1, 1>} : (tensor<?x4x4x2xf32>, tensor<2x1x1x2xf32>, tensor<2xf32>, tensor<1xf32>, tensor<1xf32>) -> tensor<?x4x4x2xf32> loc("conv")
"#;

/// Counts the chosen nodes that `counts` holds for.
fn count(egraph: &Graph, program: &Program, counts: impl Fn(&Op) -> bool) -> usize {
    let order = &program.order;
    order
        .iter()
        .filter(|id| !egraph[**id].data.constant)
        .filter(|id| counts(&program.node(egraph, **id).expect("chosen").op))
        .count()
}

#[test]
fn finds_what_greedy_rewriting_misses() {
    // k − conv(x) folds into the convolution by way of conv(x)·(−1) + k, which by itself is dearer. Rewriting every k
    // − x so would be no better: k − clamp(…) must stay one operation.
    let source = format!(
        r#"func.func @main(%x: tensor<?x4x4x2xf32>) -> tensor<?x4x4x2xf32> {{
{CONVOLUTION}
  %s = tosa.sub %k, %c : (tensor<1x1x1x2xf32>, tensor<?x4x4x2xf32>) -> tensor<?x4x4x2xf32>
  %r = tosa.clamp %s {{min_val = 0.0 : f32, max_val = 6.0 : f32}} : (tensor<?x4x4x2xf32>) -> tensor<?x4x4x2xf32>
  %t = tosa.sub %k, %r : (tensor<1x1x1x2xf32>, tensor<?x4x4x2xf32>) -> tensor<?x4x4x2xf32>
  return %t : tensor<?x4x4x2xf32>
}}"#
    );
    let context = mxc_dialects::new_context();
    let module = mxc_dialects::ir::parse(&context, source.as_bytes(), "test").expect("valid");
    let network = read(&module, &WeightStore::new()).expect("readable");
    let greedy_cost = greedy(network.egraph.clone(), &network.roots);
    let egraph = saturate(network.egraph, RULES);
    let program = extract(&egraph, &network.roots).expect("a program");
    assert!(program.cost < greedy_cost, "{} < {greedy_cost}", program.cost);
    let subtractions = |op: &Op| matches!(op, Op::Binary(Binary::Sub));
    assert_eq!(count(&egraph, &program, subtractions), 1);
    let binaries = |op: &Op| matches!(op, Op::Binary(_));
    assert_eq!(count(&egraph, &program, binaries), 1);
}

#[test]
fn never_doubles_a_convolution() {
    // Both scales could fold into copies of the convolution; its value has two uses, so neither does.
    let source = format!(
        r#"func.func @main(%x: tensor<?x4x4x2xf32>) -> (tensor<?x4x4x2xf32>, tensor<?x4x4x2xf32>) {{
{CONVOLUTION}
  %sh = "tosa.const"() {{values = dense<0> : tensor<1xi8>}} : () -> tensor<1xi8>
  %m = tosa.mul %c, %k, %sh : (tensor<?x4x4x2xf32>, tensor<1x1x1x2xf32>, tensor<1xi8>) -> tensor<?x4x4x2xf32>
  %a = tosa.add %c, %k : (tensor<?x4x4x2xf32>, tensor<1x1x1x2xf32>) -> tensor<?x4x4x2xf32>
  return %m, %a : tensor<?x4x4x2xf32>, tensor<?x4x4x2xf32>
}}"#
    );
    let context = mxc_dialects::new_context();
    let module = mxc_dialects::ir::parse(&context, source.as_bytes(), "test").expect("valid");
    let network = read(&module, &WeightStore::new()).expect("readable");
    let egraph = saturate(network.egraph, RULES);
    let program = extract(&egraph, &network.roots).expect("a program");
    let convolutions = |op: &Op| matches!(op, Op::Convolution(..));
    assert_eq!(count(&egraph, &program, convolutions), 1);
    let binaries = |op: &Op| matches!(op, Op::Binary(_));
    assert_eq!(count(&egraph, &program, binaries), 2);
}
