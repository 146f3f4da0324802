//! Cost models of a caller.

use crate::{
    error::{guard, mxc_error},
    failure::c_text,
    object::{Out, Tag, destroy, handle, optional, text},
};
use mxc::{AnalogCost, AnalogLayer, CostModel, DigitalCost, DigitalPart, Hardware, Work};
use std::{
    ffi::{c_char, c_void},
    fmt,
    sync::Arc,
};

/// What analog layers and the digital tile's work cost.
pub struct mxc_costs {
    _tag: Tag,
}

handle!(mxc_costs = Costs, "cost model");

/// An analog layer: a matrix of `rows` inputs and `outputs` for each of its groups, on tiles of the profile. Fields may be added behind the last.
#[repr(C)]
pub struct mxc_analog_layer {
    /// Its name.
    pub name: *const c_char,
    /// Its groups: the channels of a depthwise convolution, else mostly 1.
    pub groups: u64,
    /// Inputs of an output: channels of a group × taps.
    pub rows: u64,
    /// Outputs of a group.
    pub outputs: u64,
    /// Matrix-vector products per sample: output pixels or tokens.
    pub mvms: u64,
    /// The tiles that it takes, all of which each product runs on.
    pub tiles: u64,
    /// Input conversions of a product.
    pub input_conversions: u64,
    /// Output conversions of a product.
    pub output_conversions: u64,
    /// Additions of partial sums of a product.
    pub additions: u64,
}

/// What an analog layer costs per sample.
#[repr(C)]
pub struct mxc_analog_cost {
    /// Picojoules of the first read: of all its products once.
    pub picojoules: f64,
    /// Picojoules of each further read, and of adding it to the others.
    pub further_picojoules: f64,
    /// Nanoseconds of a read; reads follow one another.
    pub nanoseconds: f64,
}

/// What an item of the digital tile's work is. Kinds may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum mxc_work {
    /// Brings words into the weight memory.
    MXC_WORK_LOAD_WEIGHTS = 1,
    /// Moves words into or out of the activation memory.
    MXC_WORK_TRANSFER = 2,
    /// A convolution.
    MXC_WORK_CONVOLUTION = 3,
    /// LeakyReLU.
    MXC_WORK_LEAKY_RELU = 4,
    /// A scale and a shift per channel.
    MXC_WORK_AFFINE = 5,
    /// Cancels noise.
    MXC_WORK_NOISE_CANCELLATION = 6,
}

/// An item of the digital tile's work. Fields may be added behind the last.
#[repr(C)]
pub struct mxc_digital_work {
    /// The layer that it is of.
    pub layer: *const c_char,
    /// Whether it is of the layer's denoisers, and not of the layer itself, computed digitally.
    pub denoiser: bool,
    /// What it is.
    pub kind: mxc_work,
    /// The words that it moves or computes; 0 of a convolution.
    pub words: u64,
    /// A convolution's output pixels; else 0.
    pub pixels: u64,
    /// Elements of one of its sums; else 0.
    pub reduction: u64,
    /// Its filters in a group; else 0.
    pub filters: u64,
    /// Its groups; else 0.
    pub groups: u64,
}

/// What an item of work costs the digital tile.
#[repr(C)]
pub struct mxc_digital_cost {
    /// Cycles of the profile's clock.
    pub cycles: u64,
    /// Picojoules.
    pub picojoules: f64,
}

/// Says what a layer costs: `cost` holds the profile's own figures, which it may change to any that are finite and not negative. It gives
/// the same answer to the same question, on any thread.
pub type mxc_analog_cost_callback =
    Option<unsafe extern "C" fn(user: *mut c_void, layer: *const mxc_analog_layer, cost: *mut mxc_analog_cost)>;

/// The same of an item of the digital tile's work.
pub type mxc_digital_cost_callback =
    Option<unsafe extern "C" fn(user: *mut c_void, work: *const mxc_digital_work, cost: *mut mxc_digital_cost)>;

/// A caller's model, for any profile.
#[derive(Clone)]
pub struct Costs {
    name: String,
    analog: mxc_analog_cost_callback,
    digital: mxc_digital_cost_callback,
    user: *mut c_void,
}

// SAFETY: the contract of the callbacks is that any thread may call them.
unsafe impl Send for Costs {}
// SAFETY: as above.
unsafe impl Sync for Costs {}

/// The model of a handle, for a profile; null is the profile's own figures.
pub fn model(
    handle: *const mxc_costs,
    hardware: &Hardware,
) -> Result<Option<Arc<dyn CostModel>>, crate::failure::Failure> {
    let costs = optional::<Costs>(handle)?;
    Ok(costs
        .map(|costs| -> Arc<dyn CostModel> { Arc::new(Model { costs: costs.clone(), hardware: hardware.clone() }) }))
}

/// A caller's model for a profile, whose figures it starts from.
struct Model {
    costs: Costs,
    hardware: Hardware,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Model").field(&self.costs.name).finish()
    }
}

impl CostModel for Model {
    fn name(&self) -> &str {
        &self.costs.name
    }

    fn analog(&self, layer: &AnalogLayer<'_>) -> AnalogCost {
        let AnalogCost { picojoules, further_picojoules, nanoseconds } = self.hardware.analog(layer);
        let mut cost = mxc_analog_cost { picojoules, further_picojoules, nanoseconds };
        if let Some(analog) = self.costs.analog {
            let name = c_text(layer.name);
            let layer = mxc_analog_layer {
                name: name.as_ptr(),
                groups: layer.groups,
                rows: layer.rows,
                outputs: layer.outputs,
                mvms: layer.mvms,
                tiles: layer.tiles,
                input_conversions: layer.input_conversions,
                output_conversions: layer.output_conversions,
                additions: layer.additions,
            };
            // SAFETY: by the entries' contract it may be called with its own data.
            unsafe { analog(self.costs.user, &layer, &mut cost) }
        }
        let mxc_analog_cost { picojoules, further_picojoules, nanoseconds } = cost;
        AnalogCost { picojoules, further_picojoules, nanoseconds }
    }

    fn digital(&self, part: DigitalPart<'_>, work: &Work) -> DigitalCost {
        let DigitalCost { cycles, picojoules } = self.hardware.digital(part, work);
        let mut cost = mxc_digital_cost { cycles, picojoules };
        if let Some(digital) = self.costs.digital {
            let name = c_text(part.layer());
            let none = mxc_digital_work {
                layer: name.as_ptr(),
                denoiser: matches!(part, DigitalPart::Denoiser(_)),
                kind: mxc_work::MXC_WORK_TRANSFER,
                words: 0,
                pixels: 0,
                reduction: 0,
                filters: 0,
                groups: 0,
            };
            let of = |kind, words: usize| mxc_digital_work { kind, words: words as u64, ..none };
            let work = match *work {
                Work::LoadWeights { words } => of(mxc_work::MXC_WORK_LOAD_WEIGHTS, words),
                Work::Transfer { words } => of(mxc_work::MXC_WORK_TRANSFER, words),
                Work::LeakyRelu { elements } => of(mxc_work::MXC_WORK_LEAKY_RELU, elements),
                Work::Affine { elements } => of(mxc_work::MXC_WORK_AFFINE, elements),
                Work::NoiseCancellation { elements, .. } => of(mxc_work::MXC_WORK_NOISE_CANCELLATION, elements),
                Work::Convolution { shape, .. } => mxc_digital_work {
                    kind: mxc_work::MXC_WORK_CONVOLUTION,
                    pixels: shape.pixels as u64,
                    reduction: shape.reduction as u64,
                    filters: shape.filters as u64,
                    groups: shape.groups as u64,
                    ..none
                },
            };
            // SAFETY: by the entries' contract it may be called with its own data.
            unsafe { digital(self.costs.user, &work, &mut cost) }
        }
        DigitalCost { cycles: cost.cycles, picojoules: cost.picojoules }
    }

    fn together(&self, part: DigitalPart<'_>, works: &[Work], costs: &[DigitalCost]) -> f64 {
        match self.costs.digital {
            None => self.hardware.together(part, works, costs),
            Some(_) => costs.iter().map(|cost| cost.picojoules).sum(),
        }
    }
}

/// Makes a cost model, which errors and packages call `name`. Either callback may be null: the profile's own figures count; `user` is handed to
/// both, and must live until the model is destroyed and no call uses it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_costs_create(
    name: *const c_char,
    analog: mxc_analog_cost_callback,
    digital: mxc_digital_cost_callback,
    user: *mut c_void,
    out: *mut *mut mxc_costs,
) -> *mut mxc_error {
    guard(|| {
        let out = Out::<Costs>::new(out)?;
        out.put(Costs { name: text(name, "name of the cost model")?.to_owned(), analog, digital, user });
        Ok(())
    })
}

/// Frees a cost model that no call uses. Null is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_costs_destroy(costs: *mut mxc_costs) {
    destroy::<Costs>(costs);
}
