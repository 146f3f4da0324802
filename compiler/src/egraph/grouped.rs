//! Grouped convolutions: TOSA has none, so they are `tosa.custom` of domain `mxc`, operator `conv2d`, with
//! `implementation_attrs = "groups=2 stride=1,1 pad=1,1,1,1 dilation=1,1"` and the operands input NHWC, weight OHWI
//! (I = C / groups) and bias O.

use melior::ir::OperationRef;
use mxc_dialects::{analog::Window, ir};

/// The attributes of a grouped convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouped {
    /// Stride, padding and dilation.
    pub window: Window,
    /// The number of groups.
    pub groups: usize,
}

impl Grouped {
    /// Reads a `tosa.custom`; `None` when it is another operator or malformed.
    pub fn of(operation: &OperationRef<'_, '_>) -> Option<Self> {
        let text = |name| ir::string_attr(operation, name);
        let ours = ir::op_name(operation) == "tosa.custom"
            && text("domain_name")? == "mxc"
            && text("operator_name")? == "conv2d";
        ours.then(|| Self::parse(&text("implementation_attrs")?)).flatten()
    }

    /// Reads the attribute text: items `key=number,…` separated by spaces or semicolons, lists optionally in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let mut grouped = Self { window: Window { stride: [1; 2], pad: [0; 4], dilation: [1; 2] }, groups: 1 };
        for item in text.split(|c: char| c == ';' || c.is_whitespace()).filter(|item| !item.is_empty()) {
            let (key, list) = item.split_once('=')?;
            let list: Vec<usize> = list
                .trim_matches(|c| c == '[' || c == ']')
                .split(',')
                .map(|value| value.trim().parse().ok())
                .collect::<Option<_>>()?;
            match key.trim() {
                "stride" => grouped.window.stride = list.try_into().ok()?,
                "dilation" => grouped.window.dilation = list.try_into().ok()?,
                "pad" => grouped.window.pad = list.try_into().ok()?,
                "groups" => [grouped.groups] = list.try_into().ok()?,
                _ => return None,
            }
        }
        (grouped.groups > 0).then_some(grouped)
    }

    /// The attribute text.
    pub fn to_text(self) -> String {
        let list = |values: &[usize]| {
            let values: Vec<_> = values.iter().map(usize::to_string).collect();
            values.join(",")
        };
        format!(
            "groups={} stride={} pad={} dilation={}",
            self.groups,
            list(&self.window.stride),
            list(&self.window.pad),
            list(&self.window.dilation)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let text = "groups=2 stride=1,2 pad=1,1,0,0 dilation=1,1";
        let grouped = Grouped::parse(text).expect("valid");
        assert_eq!(grouped.to_text(), text);
        assert_eq!(Grouped::parse("groups=2;stride=[1,2];pad=[1,1,0,0]"), Some(grouped));
        for bad in ["groups=0", "groups=a", "stride=1", "what=1", "groups"] {
            assert_eq!(Grouped::parse(bad), None, "{bad}");
        }
    }
}
