//! The best choice under a budget: one option for each of many items.

/// An option of an item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// What it takes of the budget.
    pub cost: f64,
    /// What it leaves: the sum over all items is made least.
    pub loss: f64,
}

/// The most parts of the budget that costs are counted in.
const PARTS: usize = 4096;

/// By item, the option to take: those that make the sum of losses least of all whose costs are within the budget. Where all costs are
/// whole numbers, and the budget is one of at most 4,096, that is exact; else costs are rounded up to 1/4,096 of the budget, and
/// what rounding leaves is spent on what then gains most for its cost. Every item's first option costs nothing.
pub fn least(items: &[Vec<Choice>], budget: f64) -> Vec<usize> {
    let mut chosen = vec![0; items.len()];
    if !(budget.is_finite() && budget > 0.0) {
        return chosen;
    }
    let whole = budget <= PARTS as f64 && items.iter().flatten().all(|choice| choice.cost.fract() == 0.0);
    let (unit, all) = if whole { (1.0, budget.floor() as usize) } else { (budget / PARTS as f64, PARTS) };
    let units = |cost: f64| (cost / unit).ceil() as usize;
    // By units spent at most, the least loss of the items so far; and by item the options that reach it.
    let mut table = vec![0.0; all + 1];
    let mut tables: Vec<Vec<usize>> = Vec::with_capacity(items.len());
    for item in items {
        let mut next = vec![f64::INFINITY; all + 1];
        let mut choice = vec![0; all + 1];
        for (option, &Choice { cost, loss }) in item.iter().enumerate() {
            let spent = units(cost);
            for left in 0..(all + 1).saturating_sub(spent) {
                let total = table[left] + loss;
                if total < next[left + spent] {
                    (next[left + spent], choice[left + spent]) = (total, option);
                }
            }
        }
        table = next;
        tables.push(choice);
    }
    let mut left = all;
    for (item, choice) in tables.iter().enumerate().rev() {
        chosen[item] = choice[left];
        left -= units(items[item].get(choice[left]).map_or(0.0, |choice| choice.cost));
    }
    fill(items, budget, &mut chosen);
    chosen
}

/// Spends what is left of a budget, one change after the other, on the one that gains most for its cost, the first of equals.
fn fill(items: &[Vec<Choice>], budget: f64, chosen: &mut [usize]) {
    let cost =
        |chosen: &[usize]| items.iter().zip(chosen).filter_map(|(item, &at)| Some(item.get(at)?.cost)).sum::<f64>();
    let mut rest = budget - cost(chosen);
    loop {
        let mut best: Option<(f64, usize, usize)> = None;
        for (at, item) in items.iter().enumerate() {
            let Some(&now) = item.get(chosen[at]) else {
                continue;
            };
            for (option, other) in item.iter().enumerate() {
                let (extra, gained) = (other.cost - now.cost, now.loss - other.loss);
                // What gains for nothing was taken already, but for rounding.
                let ratio = gained / extra.max(f64::MIN_POSITIVE);
                if gained > 0.0 && extra > 0.0 && extra <= rest && best.is_none_or(|(found, ..)| ratio > found) {
                    best = Some((ratio, at, option));
                }
            }
        }
        let Some((_, at, option)) = best else {
            return;
        };
        rest -= items[at][option].cost - items[at][chosen[at]].cost;
        chosen[at] = option;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(items: &[Vec<Choice>], chosen: &[usize]) -> f64 {
        items.iter().zip(chosen).map(|(item, &at)| item[at].cost).sum()
    }

    fn loss(items: &[Vec<Choice>], chosen: &[usize]) -> f64 {
        items.iter().zip(chosen).map(|(item, &at)| item[at].loss).sum()
    }

    /// The least loss of all choices within a budget.
    fn exhaustive(items: &[Vec<Choice>], budget: f64) -> f64 {
        let Some((first, rest)) = items.split_first() else {
            return 0.0;
        };
        let fits = first.iter().filter(|choice| choice.cost <= budget);
        fits.map(|choice| choice.loss + exhaustive(rest, budget - choice.cost)).fold(f64::INFINITY, f64::min)
    }

    /// Random numbers in 0..1 (a linear congruence).
    fn numbers() -> impl FnMut() -> f64 {
        let mut state = 1u64;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / (1u64 << 24) as f64
        }
    }

    /// Items of up to five options, the first of which costs nothing.
    fn items(random: &mut impl FnMut() -> f64, cost: impl Fn(f64) -> f64) -> Vec<Vec<Choice>> {
        let count = 1 + (5.0 * random()) as usize;
        (0..count)
            .map(|_| {
                let options = 1 + (5.0 * random()) as usize;
                let price = |option: usize, random: f64| if option == 0 { 0.0 } else { cost(random) };
                (0..options)
                    .map(|at| Choice { cost: price(at, random()), loss: (8.0 * random() - 4.0).exp() })
                    .collect()
            })
            .collect()
    }

    /// Whole costs under a whole budget: none of all choices is better.
    #[test]
    fn whole_budgets_are_met_exactly() {
        let mut random = numbers();
        for case in 0..300 {
            let items = items(&mut random, |random| (1.0 + 40.0 * random).floor());
            let budget = (60.0 * random()).floor();
            let chosen = least(&items, budget);
            assert!(cost(&items, &chosen) <= budget, "case {case}");
            assert!(loss(&items, &chosen) <= exhaustive(&items, budget) * (1.0 + 1e-12), "case {case}: {items:?}");
        }
    }

    /// Any costs: no choice is better that leaves what rounding may take, a part for each item.
    #[test]
    fn large_budgets_are_met_but_for_rounding() {
        let mut random = numbers();
        for case in 0..300 {
            let items = items(&mut random, |random| 1e6 * random);
            let budget = 2e6 * (0.1 + random());
            let chosen = least(&items, budget);
            assert!(cost(&items, &chosen) <= budget * (1.0 + 1e-12), "case {case}");
            let rounded = exhaustive(&items, budget * (1.0 - items.len() as f64 / PARTS as f64));
            assert!(loss(&items, &chosen) <= rounded * (1.0 + 1e-12), "case {case}: {items:?}");
        }
    }

    #[test]
    fn nothing_is_bought_without_a_budget() {
        let item = vec![Choice { cost: 0.0, loss: 2.0 }, Choice { cost: 1.0, loss: 1.0 }];
        let items = [item];
        assert_eq!(least(&items, 0.0), [0]);
        assert_eq!(least(&items, f64::NAN), [0]);
        assert_eq!(least(&items, 1.0), [1]);
        assert_eq!(least(&[vec![]], 1.0), [0]);
    }
}
