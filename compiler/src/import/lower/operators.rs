//! All operators, found by domain and name.

use super::{
    attention, call::Operator, control, conv, elementwise, index, linear, normalization, quantized, recurrent, reduce,
    resize, shape, transposed, typed,
};
use std::{collections::HashMap, sync::LazyLock};

/// The tables of the families.
const FAMILIES: &[&[Operator]] = &[
    attention::OPERATORS,
    control::OPERATORS,
    conv::OPERATORS,
    elementwise::OPERATORS,
    index::OPERATORS,
    linear::OPERATORS,
    normalization::OPERATORS,
    quantized::OPERATORS,
    recurrent::OPERATORS,
    reduce::OPERATORS,
    resize::OPERATORS,
    shape::OPERATORS,
    transposed::OPERATORS,
    typed::OPERATORS,
];

/// Every operator under each of its domains.
fn all() -> impl Iterator<Item = ((&'static str, &'static str), &'static Operator)> {
    let operators = FAMILIES.iter().flat_map(|family| family.iter());
    operators.flat_map(|operator| operator.domains.iter().map(move |&domain| ((domain, operator.name), operator)))
}

/// The operator of a domain (ONNX's own is empty) and a name, if the importer knows it.
pub(super) fn find(domain: &str, name: &str) -> Option<&'static Operator> {
    static BY_NAME: LazyLock<HashMap<(&str, &str), &Operator>> = LazyLock::new(|| all().collect());
    let by_name: &HashMap<(&str, &str), &'static Operator> = &BY_NAME;
    by_name.get(&(domain, name)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_operator_is_there_twice() {
        let mut seen = BTreeSet::new();
        for ((domain, name), operator) in all() {
            assert!(seen.insert((domain, name)), "{domain}.{name} is in two tables");
            assert!(find(domain, name).is_some_and(|found| found.name == operator.name));
        }
        assert!(seen.contains(&("", "Conv")) && seen.contains(&("com.microsoft", "Gelu")));
        assert!(find("acme", "Conv").is_none() && find("", "Fancy").is_none());
    }
}
