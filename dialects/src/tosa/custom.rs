//! The operators that TOSA lacks: `tosa.custom` of the domain `mxc`. Each is one entry here, with its name and the items of its
//! text attribute `implementation_attrs`, which is written and read nowhere else.

use crate::{
    ir,
    operations::{named, names, result_type},
};
use melior::{
    Context,
    ir::{
        Attribute, Identifier, Location, Operation, OperationRef, Type, Value,
        operation::{OperationBuilder, OperationLike},
    },
};

/// The operation's name.
pub const MNEMONIC: &str = "tosa.custom";
/// The domain of these operators.
const DOMAIN: &str = "mxc";

names! {
    /// Elementwise functions of one operand.
    pub enum CustomUnary {
        /// To the nearest whole number, ties to even.
        Round = "round",
        /// −1, 0 or 1.
        Sign = "sign",
        Tan = "tan",
        Asin = "asin",
        Acos = "acos",
        Atan = "atan",
        Sinh = "sinh",
        Cosh = "cosh",
        Asinh = "asinh",
        Acosh = "acosh",
        Atanh = "atanh",
    }

    /// Elementwise functions of two operands, which broadcast.
    pub enum CustomBinary {
        /// The remainder, of the divisor's sign.
        Mod = "mod",
        /// The remainder, of the dividend's sign.
        Rem = "rem",
        /// The quotient of floats.
        Div = "div",
    }

    /// How `scatter` puts an update in.
    pub enum Scattering {
        /// The last one stays.
        Replace = "none",
        Add = "add",
        Mul = "mul",
        Max = "max",
        Min = "min",
    }

    /// What `grid_sample` does between samples.
    pub enum Interpolation {
        /// Ties to even.
        Nearest = "nearest",
        Linear = "linear",
        /// With a = −3/4.
        Cubic = "cubic",
    }

    /// What `grid_sample` does beyond the border.
    pub enum Padding {
        Zeros = "zeros",
        Border = "border",
        Reflection = "reflection",
    }
}

/// The value of an item `key=value` of the text attribute.
trait Item: Sized {
    fn read(text: &str) -> Option<Self>;
    fn write(&self) -> String;
    /// What is said of a text that cannot be read.
    fn wrong(key: &str, text: &str) -> String {
        format!("cannot read `{key}={text}`")
    }
}

impl Item for usize {
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn write(&self) -> String {
        self.to_string()
    }
}

impl Item for f32 {
    fn read(text: &str) -> Option<Self> {
        text.parse().ok().filter(|value: &Self| value.is_finite())
    }
    fn write(&self) -> String {
        self.to_string()
    }
}

impl Item for bool {
    fn read(text: &str) -> Option<Self> {
        match text {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        }
    }
    fn write(&self) -> String {
        u8::from(*self).to_string()
    }
}

/// Separated by commas, optionally in brackets.
impl<const N: usize> Item for [usize; N] {
    fn read(text: &str) -> Option<Self> {
        let values = text.trim_matches(['[', ']']).split(',');
        values.map(|value| value.trim().parse().ok()).collect::<Option<Vec<_>>>()?.try_into().ok()
    }
    fn write(&self) -> String {
        self.map(|value| value.to_string()).join(",")
    }
}

macro_rules! words {
    ($($enum:ident)*) => {$(
        impl Item for $enum {
            fn read(text: &str) -> Option<Self> {
                Self::of(text)
            }
            fn write(&self) -> String {
                self.name().to_owned()
            }
            fn wrong(key: &str, text: &str) -> String {
                format!("{key} is `{text}`")
            }
        }
    )*};
}
words!(Scattering Interpolation Padding);

/// The items of a text, taken out one by one: `key=value` separated by semicolons or white space.
struct Items<'t> {
    text: &'t str,
    left: Vec<&'t str>,
}

impl<'t> Items<'t> {
    fn new(text: &'t str) -> Self {
        let items = text.split(|c: char| c == ';' || c.is_whitespace()).filter(|item| !item.is_empty());
        Self { text, left: items.collect() }
    }

    /// Takes an item's value out; `default` stands for one that is not there.
    fn take<T: Item>(&mut self, key: &str, default: Option<T>) -> Result<T, String> {
        let value = |item: &'t str| item.split_once('=').filter(|(name, _)| *name == key).map(|(_, value)| value);
        let Some((at, value)) = self.left.iter().enumerate().find_map(|(at, item)| Some((at, value(item)?))) else {
            return default.ok_or_else(|| format!("implementation_attrs: `{}` has no {key}", self.text));
        };
        self.left.remove(at);
        T::read(value).ok_or_else(|| format!("implementation_attrs: {}", T::wrong(key, value)))
    }

    /// Refuses an item that nothing has taken.
    fn finish(self) -> Result<(), String> {
        match self.left.first() {
            Some(item) => Err(format!("implementation_attrs: cannot read `{item}`")),
            None => Ok(()),
        }
    }
}

macro_rules! default {
    () => {
        None
    };
    ($value:expr) => {
        Some($value)
    };
}

macro_rules! operators {
    ($(
        $(#[$documentation:meta])*
        $operator:ident = $name:literal $({
            $($(#[$item_documentation:meta])* $item:ident: $type:ty $(= $default:expr)?,)*
        })?
    )*) => {
        /// An operator of the domain `mxc` with its attributes.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Custom {
            $($(#[$documentation])* $operator $({ $($(#[$item_documentation])* $item: $type,)* })?,)*
            /// An elementwise function of one operand.
            Unary(CustomUnary),
            /// An elementwise function of two operands.
            Binary(CustomBinary),
        }

        impl Custom {
            /// The name, `operator_name`.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$operator { .. } => $name,)*
                    Self::Unary(function) => function.name(),
                    Self::Binary(function) => function.name(),
                }
            }

            /// The text attribute, `implementation_attrs`: items `key=value` separated by semicolons.
            pub fn text(&self) -> String {
                let mut items: Vec<String> = Vec::new();
                match self {
                    $(Self::$operator $({ $($item,)* })? => {
                        $($(items.push(format!("{}={}", stringify!($item), Item::write($item)));)*)?
                    })*
                    Self::Unary(_) | Self::Binary(_) => {}
                }
                items.join(";")
            }

            /// The operator of a name with the attributes of a text; `None` when there is none of that name.
            fn read(name: &str, text: &str) -> Result<Option<Self>, String> {
                let mut items = Items::new(text);
                let custom = match name {
                    $($name => Self::$operator $({
                        $($item: items.take(stringify!($item), default!($($default)?))?,)*
                    })?,)*
                    _ => match (CustomUnary::of(name), CustomBinary::of(name)) {
                        (Some(function), _) => Self::Unary(function),
                        (None, Some(function)) => Self::Binary(function),
                        (None, None) => return Ok(None),
                    },
                };
                items.finish()?;
                Ok(Some(custom))
            }
        }
    };
}

operators! {
    /// A convolution in groups: operands input NHWC, weight OHWI with I = C / groups, bias O.
    Conv2d = "conv2d" {
        /// Vertical, horizontal.
        stride: [usize; 2] = [1; 2],
        /// Top, bottom, left, right.
        pad: [usize; 4] = [0; 4],
        /// Vertical, horizontal.
        dilation: [usize; 2] = [1; 2],
        /// At least 1.
        groups: usize = 1,
    }
    /// The slices of the first operand at the indices, the second, one axis of constant integers.
    Take = "take" {
        /// The first operand's axis.
        axis: usize,
    }
    /// The first operand, a constant, for every sample of the second.
    Broadcast = "broadcast"
    /// The elements of the first operand at computed indices, the second, of its rank; the other axes broadcast.
    Pick = "pick" {
        /// The axis that is indexed.
        axis: usize,
    }
    /// Data, indices and updates: the data with the updates put in at the indices.
    Scatter = "scatter" {
        /// The axis that is indexed.
        axis: usize,
        /// What becomes of an element and its update.
        reduction: Scattering,
    }
    /// The indices that sort an axis.
    TopK = "topk" {
        /// The axis.
        axis: usize,
        /// How many of them.
        count: usize,
        /// Whether from the greatest down.
        largest: bool,
    }
    /// Running sums.
    CumSum = "cumsum" {
        /// The axis.
        axis: usize,
        /// Whether an element's own value is left out.
        exclusive: bool,
        /// Whether from the end.
        reverse: bool,
    }
    /// The first operand, `[N, C, …]`, interpolated at computed points, the second, `[N, …, spatial axes]`.
    GridSample = "grid_sample" {
        /// Between samples.
        mode: Interpolation,
        /// Beyond the border.
        padding: Padding,
        /// Whether ±1 are the centres of the outermost samples, or their edges.
        align_corners: bool,
    }
    /// `clamp(round(x / scale) + zero, low, high)` as floats.
    Quantize = "quantize" {
        /// Above 0.
        scale: f32,
        /// The zero point.
        zero: f32,
        /// The least whole number.
        low: f32,
        /// The greatest.
        high: f32,
    }
}

impl Custom {
    /// Reads the operator of a `tosa.custom`.
    ///
    /// # Errors
    ///
    /// When the domain or the name is not one of these, or the text attribute does not fit.
    pub fn parse(operation: &OperationRef<'_, '_>) -> Result<Self, String> {
        let text = |name: &str| ir::string_attr(operation, name).unwrap_or_default();
        Self::from_text(&text("domain_name"), &text("operator_name"), &text("implementation_attrs"))
    }

    fn from_text(domain: &str, name: &str, text: &str) -> Result<Self, String> {
        let found = if domain == DOMAIN { Self::read(name, text)? } else { None };
        let found = found.ok_or_else(|| format!("operator `{name}` of domain `{domain}` is unknown"))?;
        match found {
            Self::Conv2d { groups: 0, .. } => Err("implementation_attrs: cannot read `groups=0`".to_owned()),
            Self::Quantize { scale, low, high, .. } if scale <= 0.0 || low > high => {
                Err(format!("implementation_attrs: `{text}` is no quantiser"))
            }
            found => Ok(found),
        }
    }

    /// The attributes of the `tosa.custom`.
    pub fn attributes<'c>(&self, context: &'c Context) -> Vec<(Identifier<'c>, Attribute<'c>)> {
        let string = |text: &str| Some(ir::string(context, text));
        named(
            context,
            [
                ("operator_name", string(self.name())),
                ("domain_name", string(DOMAIN)),
                ("implementation_attrs", string(&self.text())),
            ],
        )
    }
}

/// A `tosa.custom` of the domain `mxc` with one result.
#[derive(Clone, Debug)]
pub struct CustomOp<'c, 'a> {
    /// The operator.
    pub custom: Custom,
    /// The operands.
    pub inputs: Vec<Value<'c, 'a>>,
    /// The result's type.
    pub result: Type<'c>,
}

impl<'c, 'a> CustomOp<'c, 'a> {
    /// Reads an operation; `None` when it is no `tosa.custom`.
    ///
    /// # Errors
    ///
    /// Those of [`Custom::parse`], or when it has not one result.
    pub fn parse(operation: OperationRef<'c, 'a>) -> Result<Option<Self>, String> {
        if ir::op_name(&operation) != MNEMONIC {
            return Ok(None);
        }
        let custom = Custom::parse(&operation)?;
        Ok(Some(Self { custom, inputs: operation.operands().collect(), result: result_type(&operation, false)? }))
    }

    /// The operation's name.
    pub fn mnemonic(&self) -> &'static str {
        MNEMONIC
    }

    /// Makes the operation.
    ///
    /// # Errors
    ///
    /// When MLIR does not build it.
    pub fn build(&self, context: &'c Context, location: Location<'c>) -> Result<Operation<'c>, melior::Error> {
        OperationBuilder::new(MNEMONIC, location)
            .add_operands(&self.inputs)
            .add_attributes(&self.custom.attributes(context))
            .add_results(&[self.result])
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use melior::ir::{BlockLike, Module};

    /// One of every operator.
    fn all() -> Vec<Custom> {
        let mut all = vec![
            Custom::Conv2d { stride: [1, 2], pad: [1, 1, 0, 0], dilation: [1, 3], groups: 2 },
            Custom::Take { axis: 3 },
            Custom::Broadcast,
            Custom::Pick { axis: 0 },
            Custom::TopK { axis: 1, count: 5, largest: false },
            Custom::CumSum { axis: 2, exclusive: true, reverse: false },
            Custom::Quantize { scale: 0.1, zero: -3.0, low: -128.0, high: 1e-20 },
        ];
        all.extend(Scattering::ALL.iter().map(|&reduction| Custom::Scatter { axis: 1, reduction }));
        for &mode in Interpolation::ALL {
            all.extend(Padding::ALL.iter().map(|&padding| Custom::GridSample { mode, padding, align_corners: true }));
        }
        all.extend(CustomUnary::ALL.iter().copied().map(Custom::Unary));
        all.extend(CustomBinary::ALL.iter().copied().map(Custom::Binary));
        all
    }

    #[test]
    fn texts_round_trip() {
        let context = crate::new_context();
        let module = Module::new(Location::unknown(&context));
        for custom in all() {
            assert_eq!(Custom::from_text(DOMAIN, custom.name(), &custom.text()), Ok(custom));
            let r#type = Type::float32(&context);
            let built = CustomOp { custom, inputs: Vec::new(), result: ir::tensor_type(r#type, &[Some(1)]) };
            let built = built.build(&context, Location::unknown(&context)).expect("it is built");
            let built = module.body().append_operation(built);
            let read = CustomOp::parse(built).expect("it is read").expect("a tosa.custom");
            assert_eq!(read.custom, custom);
        }
    }

    #[test]
    fn texts_are_what_they_were() {
        let [conv, scatter, quantize, take] = [
            Custom::Conv2d { stride: [2, 2], pad: [1, 1, 0, 0], dilation: [1; 2], groups: 2 },
            Custom::Scatter { axis: 1, reduction: Scattering::Replace },
            Custom::Quantize { scale: 0.5, zero: 3.0, low: 0.0, high: 255.0 },
            Custom::Take { axis: 2 },
        ]
        .map(|custom| custom.text());
        assert_eq!(conv, "stride=2,2;pad=1,1,0,0;dilation=1,1;groups=2");
        assert_eq!(scatter, "axis=1;reduction=none");
        assert_eq!(quantize, "scale=0.5;zero=3;low=0;high=255");
        assert_eq!(take, "axis=2");
        let other = Custom::from_text(DOMAIN, "conv2d", "groups=2 stride=[1,2] pad=1,1,0,0");
        let expected = Custom::Conv2d { stride: [1, 2], pad: [1, 1, 0, 0], dilation: [1; 2], groups: 2 };
        assert_eq!(other, Ok(expected));
    }

    #[test]
    fn malformed_texts_are_refused() {
        let cases = [
            ("conv2d", "groups=0", "implementation_attrs: cannot read `groups=0`"),
            ("conv2d", "groups=a", "implementation_attrs: cannot read `groups=a`"),
            ("conv2d", "stride=1", "implementation_attrs: cannot read `stride=1`"),
            ("conv2d", "what=1", "implementation_attrs: cannot read `what=1`"),
            ("conv2d", "groups", "implementation_attrs: cannot read `groups`"),
            ("conv2d", "groups=1;groups=2", "implementation_attrs: cannot read `groups=2`"),
            ("take", "", "implementation_attrs: `` has no axis"),
            ("take", "axis=-1", "implementation_attrs: cannot read `axis=-1`"),
            ("scatter", "axis=1;reduction=sum", "implementation_attrs: reduction is `sum`"),
            ("topk", "axis=1;count=99999999999999999999;largest=1", "cannot read `count=99999999999999999999`"),
            ("topk", "axis=1;count=1;largest=2", "implementation_attrs: cannot read `largest=2`"),
            ("quantize", "scale=0;zero=0;low=0;high=1", "`scale=0;zero=0;low=0;high=1` is no quantiser"),
            ("quantize", "scale=1;zero=0;low=2;high=1", "`scale=1;zero=0;low=2;high=1` is no quantiser"),
            ("quantize", "scale=inf;zero=0;low=2;high=1", "implementation_attrs: cannot read `scale=inf`"),
            ("round", "digits=1", "implementation_attrs: cannot read `digits=1`"),
            ("fancy", "", "operator `fancy` of domain `mxc` is unknown"),
        ];
        for (name, text, message) in cases {
            let error = Custom::from_text(DOMAIN, name, text).expect_err(text);
            assert!(error.contains(message), "{name} {text}: {error}");
        }
        let error = Custom::from_text("acme", "take", "axis=1").expect_err("another domain");
        assert_eq!(error, "operator `take` of domain `acme` is unknown");
        // Every text with a piece missing, or one too many, is read or refused.
        for custom in all() {
            let text = custom.text();
            for at in text.char_indices().map(|(at, _)| at) {
                let _ = Custom::from_text(DOMAIN, custom.name(), &text[..at]);
                let _ = Custom::from_text(DOMAIN, custom.name(), &format!("{};=é{}", &text[..at], &text[at..]));
            }
        }
    }
}
