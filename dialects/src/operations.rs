//! What the typed views of a dialect's operations are made of: [`AttributeValue`] says how a Rust value is an attribute, the macro
//! `operations!` makes a struct an operation, the macro `names!` an enum of what differs by name only.

use crate::ir;
use melior::{
    Context,
    ir::{
        Attribute, Identifier, OperationRef, Type, Value, ValueLike,
        attribute::{
            BoolAttribute, DenseI32ArrayAttribute, FlatSymbolRefAttribute, FloatAttribute, IntegerAttribute,
            TypeAttribute,
        },
        operation::OperationLike,
        r#type::IntegerType,
    },
};

/// A symbol attribute's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol(pub String);

/// A Boolean attribute that is left out where it is false.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flag(pub bool);

/// A Rust value that is an attribute in the IR.
pub(crate) trait AttributeValue<'c>: Sized {
    /// The value of an operation's attribute; `None` where it lacks one that it must have, or has another kind.
    fn read(operation: &OperationRef<'c, '_>, name: &str) -> Option<Self>;

    /// The attribute; `None` where it is left out.
    fn write(&self, context: &'c Context) -> Option<Attribute<'c>>;
}

impl<'c> AttributeValue<'c> for i64 {
    fn read(operation: &OperationRef<'c, '_>, name: &str) -> Option<Self> {
        ir::i64_attr(operation, name)
    }
    fn write(&self, context: &'c Context) -> Option<Attribute<'c>> {
        Some(ir::integer(context, *self))
    }
}

impl<'c> AttributeValue<'c> for Option<i64> {
    fn read(operation: &OperationRef<'c, '_>, name: &str) -> Option<Self> {
        Some(ir::i64_attr(operation, name))
    }
    fn write(&self, context: &'c Context) -> Option<Attribute<'c>> {
        self.map(|value| ir::integer(context, value))
    }
}

impl<'c> AttributeValue<'c> for i32 {
    fn read(operation: &OperationRef<'c, '_>, name: &str) -> Option<Self> {
        ir::i64_attr(operation, name)?.try_into().ok()
    }
    fn write(&self, context: &'c Context) -> Option<Attribute<'c>> {
        Some(IntegerAttribute::new(IntegerType::new(context, 32).into(), i64::from(*self)).into())
    }
}

impl<'c> AttributeValue<'c> for f32 {
    fn read(operation: &OperationRef<'c, '_>, name: &str) -> Option<Self> {
        ir::f64_attr(operation, name).map(|value| value as f32)
    }
    fn write(&self, context: &'c Context) -> Option<Attribute<'c>> {
        Some(FloatAttribute::new(context, Type::float32(context), f64::from(*self)).into())
    }
}

/// A unit attribute: there or not.
impl<'c> AttributeValue<'c> for bool {
    fn read(operation: &OperationRef<'c, '_>, name: &str) -> Option<Self> {
        Some(operation.has_attribute(name))
    }
    fn write(&self, context: &'c Context) -> Option<Attribute<'c>> {
        self.then(|| Attribute::unit(context))
    }
}

impl<'c> AttributeValue<'c> for Flag {
    fn read(operation: &OperationRef<'c, '_>, name: &str) -> Option<Self> {
        match operation.attribute(name) {
            Ok(attribute) => BoolAttribute::try_from(attribute).ok().map(|attribute| Self(attribute.value())),
            Err(_) => Some(Self(false)),
        }
    }
    fn write(&self, context: &'c Context) -> Option<Attribute<'c>> {
        self.0.then(|| ir::boolean(context, true))
    }
}

impl<'c> AttributeValue<'c> for Vec<i64> {
    fn read(operation: &OperationRef<'c, '_>, name: &str) -> Option<Self> {
        ir::i64s_attr(operation, name)
    }
    fn write(&self, context: &'c Context) -> Option<Attribute<'c>> {
        Some(ir::i64s(context, self))
    }
}

impl<'c> AttributeValue<'c> for Vec<i32> {
    fn read(operation: &OperationRef<'c, '_>, name: &str) -> Option<Self> {
        ir::i64s_attr(operation, name)?.into_iter().map(|value| value.try_into().ok()).collect()
    }
    fn write(&self, context: &'c Context) -> Option<Attribute<'c>> {
        Some(DenseI32ArrayAttribute::new(context, self).into())
    }
}

/// So many sizes.
impl<'c, const N: usize> AttributeValue<'c> for [usize; N] {
    fn read(operation: &OperationRef<'c, '_>, name: &str) -> Option<Self> {
        let sizes: Option<Vec<usize>> =
            ir::i64s_attr(operation, name)?.into_iter().map(|size| usize::try_from(size).ok()).collect();
        sizes?.try_into().ok()
    }
    fn write(&self, context: &'c Context) -> Option<Attribute<'c>> {
        Some(ir::i64s(context, &self.map(|size| size as i64)))
    }
}

impl<'c> AttributeValue<'c> for String {
    fn read(operation: &OperationRef<'c, '_>, name: &str) -> Option<Self> {
        ir::string_attr(operation, name)
    }
    fn write(&self, context: &'c Context) -> Option<Attribute<'c>> {
        Some(ir::string(context, self))
    }
}

impl<'c> AttributeValue<'c> for Symbol {
    fn read(operation: &OperationRef<'c, '_>, name: &str) -> Option<Self> {
        ir::symbol_attr(operation, name).map(Self)
    }
    fn write(&self, context: &'c Context) -> Option<Attribute<'c>> {
        Some(FlatSymbolRefAttribute::new(context, &self.0).into())
    }
}

impl<'c> AttributeValue<'c> for Type<'c> {
    fn read(operation: &OperationRef<'c, '_>, name: &str) -> Option<Self> {
        ir::type_attr(operation, name)
    }
    fn write(&self, _context: &'c Context) -> Option<Attribute<'c>> {
        Some(TypeAttribute::new(*self).into())
    }
}

/// The message that an operation lacks an operand or attribute.
pub(crate) fn missing(operation: &OperationRef<'_, '_>, what: &str, name: &str) -> String {
    format!("'{}' lacks the {what} `{name}`", ir::op_name(operation))
}

/// The result types of an operation that must have `results` of them and no operands but those read.
pub(crate) fn result_types<'c>(
    operation: &OperationRef<'c, '_>,
    more_operands: bool,
    results: usize,
) -> Result<Vec<Type<'c>>, String> {
    let types: Vec<_> = operation.results().map(|result| result.r#type()).collect();
    if more_operands || types.len() != results {
        let (name, operands) = (ir::op_name(operation), operation.operand_count());
        return Err(format!("'{name}' has {operands} operands and {} results", types.len()));
    }
    Ok(types)
}

/// The only result type of an operation that has no operands but those read.
pub(crate) fn result_type<'c>(operation: &OperationRef<'c, '_>, more_operands: bool) -> Result<Type<'c>, String> {
    let types = result_types(operation, more_operands, 1)?;
    types.first().copied().ok_or_else(|| missing(operation, "result", "0"))
}

/// An operation's operand.
pub(crate) fn operand<'c, 'a>(
    operation: &OperationRef<'c, 'a>,
    index: usize,
    name: &str,
) -> Result<Value<'c, 'a>, String> {
    operation.operands().nth(index).ok_or_else(|| missing(operation, "operand", name))
}

/// The attributes that are there, named.
pub(crate) fn named<'c>(
    context: &'c Context,
    attributes: impl IntoIterator<Item = (&'static str, Option<Attribute<'c>>)>,
) -> Vec<(Identifier<'c>, Attribute<'c>)> {
    attributes.into_iter().filter_map(|(name, value)| Some((Identifier::new(context, name), value?))).collect()
}

/// A struct an operation, with its operands, attributes and result types: `parse` reads one from the IR, `build` makes the operation. An
/// operation of a fixed number of results (`-> 2`) has the field `types`, one of a single result (`=> result`) a field for its type.
/// The enum is any of them, and of further views that are given with it.
macro_rules! operations {
    (
        $(#[$any_documentation:meta])*
        pub enum $any:ident { $($(#[$other_documentation:meta])* $other:ident($view:ty),)* }
        $(
            $(#[$documentation:meta])*
            $name:ident = $mnemonic:literal {
                ($($operand:ident),* $(; $variadic:ident)?) $(-> $results:literal)? $(=> $result:ident)?
                $($(#[$attribute_documentation:meta])* $attribute:ident: $type:ty,)*
            }
        )*
    ) => {
        $(
            $(#[$documentation])*
            #[derive(Clone, Debug)]
            pub struct $name<'c, 'a> {
                $(
                    #[doc = concat!("Operand `", stringify!($operand), "`.")]
                    pub $operand: melior::ir::Value<'c, 'a>,
                )*
                $(
                    #[doc = concat!("Operands `", stringify!($variadic), "`, any number.")]
                    pub $variadic: Vec<melior::ir::Value<'c, 'a>>,
                )?
                $($(#[$attribute_documentation])* pub $attribute: $type,)*
                $(
                    #[doc = concat!("The result types, ", stringify!($results), " of them.")]
                    pub types: Vec<melior::ir::Type<'c>>,
                    #[allow(missing_docs)]
                    pub lifetime: std::marker::PhantomData<&'a ()>,
                )?
                $(
                    /// The result's type.
                    pub $result: melior::ir::Type<'c>,
                )?
            }

            impl<'c, 'a> $name<'c, 'a> {
                /// The operation's name.
                pub const MNEMONIC: &'static str = $mnemonic;

                /// Reads an operation of this name.
                pub fn parse(operation: melior::ir::OperationRef<'c, 'a>) -> Result<Self, String> {
                    use melior::ir::operation::OperationLike;
                    #[allow(unused_imports)]
                    use $crate::operations::{AttributeValue, missing};
                    #[allow(unused_mut, unused_variables)]
                    let mut operands = operation.operands();
                    Ok(Self {
                        $($operand: operands
                            .next()
                            .ok_or_else(|| missing(&operation, "operand", stringify!($operand)))?,)*
                        $($variadic: operands.by_ref().collect(),)?
                        $($attribute: <$type as AttributeValue>::read(&operation, stringify!($attribute))
                            .ok_or_else(|| missing(&operation, "attribute", stringify!($attribute)))?,)*
                        $(
                            types: $crate::operations::result_types(&operation, operands.next().is_some(), $results)?,
                            lifetime: std::marker::PhantomData,
                        )?
                        $($result: $crate::operations::result_type(&operation, operands.next().is_some())?,)?
                    })
                }

                /// Makes the operation.
                ///
                /// # Errors
                ///
                /// When MLIR does not build it.
                pub fn build(
                    &self,
                    context: &'c melior::Context,
                    location: melior::ir::Location<'c>,
                ) -> Result<melior::ir::Operation<'c>, melior::Error> {
                    #[allow(unused_imports)]
                    use $crate::operations::AttributeValue;
                    let attributes = $crate::operations::named(
                        context,
                        [$((stringify!($attribute), self.$attribute.write(context)),)*],
                    );
                    #[allow(unused_mut)]
                    let mut operands: Vec<melior::ir::Value<'c, 'a>> = vec![$(self.$operand,)*];
                    $(operands.extend(&self.$variadic);)?
                    $(
                        const _: usize = $results;
                        let results = &self.types;
                    )?
                    $(let results = &[self.$result];)?
                    melior::ir::operation::OperationBuilder::new($mnemonic, location)
                        .add_operands(&operands)
                        .add_attributes(&attributes)
                        .add_results(results)
                        .build()
                }
            }

            impl<'c, 'a> From<$name<'c, 'a>> for $any<'c, 'a> {
                fn from(operation: $name<'c, 'a>) -> Self {
                    Self::$name(operation)
                }
            }
        )*

        $(#[$any_documentation])*
        #[derive(Clone, Debug)]
        #[allow(missing_docs)]
        pub enum $any<'c, 'a> {
            $($name($name<'c, 'a>),)*
            $($(#[$other_documentation])* $other($view),)*
        }

        impl<'c, 'a> $any<'c, 'a> {
            /// Reads an operation; `None` when it is none of these.
            pub fn parse(operation: melior::ir::OperationRef<'c, 'a>) -> Result<Option<Self>, String> {
                $(
                    if let Some(view) = <$view>::parse(operation)? {
                        return Ok(Some(Self::$other(view)));
                    }
                )*
                Ok(match $crate::ir::op_name(&operation).as_str() {
                    $($mnemonic => Some(Self::$name($name::parse(operation)?)),)*
                    _ => None,
                })
            }

            /// The operation's name.
            pub fn mnemonic(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => $mnemonic,)*
                    $(Self::$other(view) => view.mnemonic(),)*
                }
            }

            /// Makes the operation.
            ///
            /// # Errors
            ///
            /// When MLIR does not build it.
            pub fn build(
                &self,
                context: &'c melior::Context,
                location: melior::ir::Location<'c>,
            ) -> Result<melior::ir::Operation<'c>, melior::Error> {
                match self {
                    $(Self::$name(operation) => operation.build(context, location),)*
                    $(Self::$other(view) => view.build(context, location),)*
                }
            }
        }

        $(
            impl<'c, 'a> From<$view> for $any<'c, 'a> {
                fn from(view: $view) -> Self {
                    Self::$other(view)
                }
            }
        )*
    };
}
pub(crate) use operations;

/// An enum whose values have names: of operations, operators, or words in an attribute.
macro_rules! names {
    ($(
        $(#[$documentation:meta])*
        pub enum $enum:ident { $($(#[$value_documentation:meta])* $value:ident = $name:literal,)* }
    )*) => {$(
        $(#[$documentation])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $enum {
            $(#[doc = concat!("`", $name, "`.")] $(#[$value_documentation])* $value,)*
        }

        impl $enum {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$value,)*];

            /// Its name in the IR.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $name,)*
                }
            }

            /// The one of that name.
            pub fn of(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$value),)*
                    _ => None,
                }
            }
        }
    )*};
}
pub(crate) use names;
