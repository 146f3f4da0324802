//! What of a denoiser's arithmetic has a closed form.

use mxc_spec::denoise::expression::{Expression, ParameterId, Primitive, TermId};

/// How a denoiser is fitted. Parameters are named by their places among the kind's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Form {
    /// X̂ = a·X + b per channel.
    Affine {
        /// a; 1 where there is none.
        scale: Option<ParameterId>,
        /// b.
        shift: ParameterId,
    },
    /// X̂ = X ± (a filter of every channel by itself).
    Filter {
        /// Its taps.
        weight: ParameterId,
        /// Its constant.
        bias: Option<ParameterId>,
        /// Whether it is taken away from X.
        subtracted: bool,
    },
    /// X̂ = X ± (a way through fewer channels).
    Bottleneck(Bottleneck),
}

/// A way from C channels to fewer and back: 1×1 convolutions at both ends, and between them what a signal passes unchanged if it is
/// positive and the filters are the identity.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bottleneck {
    /// The way in: weight and bias.
    pub down: [Option<ParameterId>; 2],
    /// Filters on the way: weight and bias.
    pub filters: Vec<[Option<ParameterId>; 2]>,
    /// Whether the signal must be positive.
    pub rectified: bool,
    /// The way out: weight and bias.
    pub up: [Option<ParameterId>; 2],
    /// Whether it is taken away from X.
    pub subtracted: bool,
    /// What scales random parts, which have no closed form: 0.
    pub silent: Vec<ParameterId>,
}

/// The form of a denoiser's arithmetic, if it is one of those known.
pub(crate) fn of(expression: &Expression) -> Option<Form> {
    let terms = expression.terms();
    let is_input = |term: TermId| matches!(terms[term].primitive, Primitive::Input);
    let (correction, subtracted) = match terms[expression.result()].primitive {
        Primitive::ScaleShift { x, scale, shift } if is_input(x) => return Some(Form::Affine { scale, shift }),
        Primitive::Add([x, correction]) if is_input(x) => (correction, false),
        Primitive::Subtract([x, correction]) if is_input(x) => (correction, true),
        Primitive::Input
        | Primitive::Pointwise { .. }
        | Primitive::Depthwise { .. }
        | Primitive::LeakyRelu { .. }
        | Primitive::ScaleShift { .. }
        | Primitive::Draw { .. }
        | Primitive::Multiply(_)
        | Primitive::Add(_)
        | Primitive::Subtract(_) => return None,
    };
    let (correction, silent) = match terms[correction].primitive {
        Primitive::Add([a, b]) => match (scaled_by(expression, a), scaled_by(expression, b)) {
            (Some(silent), None) => (b, silent),
            (None, Some(silent)) => (a, silent),
            (None, None) | (Some(_), Some(_)) => return None,
        },
        _ => (correction, Vec::new()),
    };
    if let Primitive::Depthwise { x, weight, bias } = terms[correction].primitive
        && is_input(x)
        && silent.is_empty()
    {
        return Some(Form::Filter { weight, bias, subtracted });
    }
    let Primitive::Pointwise { x: mut at, weight, bias } = terms[correction].primitive else {
        return None;
    };
    let up = [Some(weight), bias];
    let (mut filters, mut rectified) = (Vec::new(), false);
    loop {
        match terms[at].primitive {
            Primitive::LeakyRelu { x } => (at, rectified) = (x, true),
            Primitive::Depthwise { x, weight, bias } => {
                filters.push([Some(weight), bias]);
                at = x;
            }
            // What has no bias cannot lift the signal above 0.
            Primitive::Pointwise { x, weight, bias } if is_input(x) && (bias.is_some() || !rectified) => {
                let down = [Some(weight), bias];
                return Some(Form::Bottleneck(Bottleneck { down, filters, rectified, up, subtracted, silent }));
            }
            Primitive::Input
            | Primitive::Pointwise { .. }
            | Primitive::ScaleShift { .. }
            | Primitive::Draw { .. }
            | Primitive::Multiply(_)
            | Primitive::Add(_)
            | Primitive::Subtract(_) => return None,
        }
    }
}

/// The parameters of the convolution that scales a term's draws, if the term is random.
fn scaled_by(expression: &Expression, term: TermId) -> Option<Vec<ParameterId>> {
    let terms = expression.terms();
    let Primitive::Multiply([a, b]) = terms[term].primitive else {
        return None;
    };
    let is_draw = |term: TermId| matches!(terms[term].primitive, Primitive::Draw { .. });
    let scale = if is_draw(a) { b } else { is_draw(b).then_some(a)? };
    Some(terms[scale].primitive.parameters())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mxc_spec::denoise::Kind;

    /// Parameters are in the order of the paper's figure: in, filter, means, deviations, each a weight and a bias.
    #[test]
    fn kinds_have_their_forms() {
        let form = |kind: &str| of(Kind::named(kind).unwrap().expression());
        assert_eq!(form("affine"), Some(Form::Affine { scale: Some(0), shift: 1 }));
        assert_eq!(form("bias"), Some(Form::Affine { scale: None, shift: 0 }));
        assert_eq!(form("depthwise"), Some(Form::Filter { weight: 0, bias: Some(1), subtracted: false }));
        let mean = Bottleneck {
            down: [Some(0), Some(1)],
            filters: vec![[Some(2), Some(3)]],
            rectified: true,
            up: [Some(4), Some(5)],
            subtracted: true,
            silent: Vec::new(),
        };
        assert_eq!(form("paper"), Some(Form::Bottleneck(Bottleneck { silent: vec![6, 7], ..mean.clone() })));
        assert_eq!(form("mean"), Some(Form::Bottleneck(mean)));
        let lowrank = Bottleneck {
            down: [Some(0), None],
            filters: Vec::new(),
            rectified: false,
            up: [Some(1), None],
            subtracted: false,
            silent: Vec::new(),
        };
        assert_eq!(form("lowrank"), Some(Form::Bottleneck(lowrank)));
    }
}
