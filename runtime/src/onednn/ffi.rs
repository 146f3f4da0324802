//! The part of oneDNN's v3 C API that the engine uses (`oneapi/dnnl/dnnl.h`), and owners of its handles.
//!
//! Everything unsafe about oneDNN is in this file: the rest of the crate sees owning types whose methods check sizes.

use std::{
    ffi::{c_int, c_void},
    marker::PhantomData,
    ptr::{self, NonNull},
    sync::Arc,
};

/// An opaque C object.
#[repr(C)]
pub struct Opaque {
    _private: [u8; 0],
}

type Handle = *mut Opaque;
type Status = c_int;
type Dims = [i64; 12];

/// One argument of an execution.
#[repr(C)]
#[derive(Clone, Copy)]
struct ExecArg {
    arg: c_int,
    memory: Handle,
}

unsafe extern "C" {
    fn dnnl_engine_create(engine: *mut Handle, kind: c_int, index: usize) -> Status;
    fn dnnl_engine_destroy(engine: Handle) -> Status;
    fn dnnl_stream_create(stream: *mut Handle, engine: Handle, flags: u32) -> Status;
    fn dnnl_stream_wait(stream: Handle) -> Status;
    fn dnnl_stream_destroy(stream: Handle) -> Status;
    fn dnnl_memory_desc_create_with_strides(
        desc: *mut Handle,
        rank: c_int,
        dims: *const i64,
        data_type: c_int,
        strides: *const i64,
    ) -> Status;
    fn dnnl_memory_desc_create_with_tag(
        desc: *mut Handle,
        rank: c_int,
        dims: *const i64,
        data_type: c_int,
        tag: c_int,
    ) -> Status;
    fn dnnl_memory_desc_clone(desc: *mut Handle, existing: *const Opaque) -> Status;
    fn dnnl_memory_desc_destroy(desc: Handle) -> Status;
    fn dnnl_memory_desc_get_size(desc: *const Opaque) -> usize;
    fn dnnl_memory_create(memory: *mut Handle, desc: *const Opaque, engine: Handle, data: *mut c_void) -> Status;
    fn dnnl_memory_set_data_handle(memory: Handle, data: *mut c_void) -> Status;
    fn dnnl_memory_destroy(memory: Handle) -> Status;
    fn dnnl_primitive_attr_create(attr: *mut Handle) -> Status;
    fn dnnl_primitive_attr_set_scratchpad_mode(attr: Handle, mode: c_int) -> Status;
    fn dnnl_primitive_attr_destroy(attr: Handle) -> Status;
    fn dnnl_convolution_forward_primitive_desc_create(
        desc: *mut Handle,
        engine: Handle,
        propagation: c_int,
        algorithm: c_int,
        source: *const Opaque,
        weights: *const Opaque,
        bias: *const Opaque,
        destination: *const Opaque,
        strides: *const i64,
        dilations: *const i64,
        pad_before: *const i64,
        pad_after: *const i64,
        attr: *const Opaque,
    ) -> Status;
    fn dnnl_convolution_backward_data_primitive_desc_create(
        desc: *mut Handle,
        engine: Handle,
        algorithm: c_int,
        source: *const Opaque,
        weights: *const Opaque,
        destination: *const Opaque,
        strides: *const i64,
        dilations: *const i64,
        pad_before: *const i64,
        pad_after: *const i64,
        forward: *const Opaque,
        attr: *const Opaque,
    ) -> Status;
    fn dnnl_reorder_primitive_desc_create(
        desc: *mut Handle,
        source: *const Opaque,
        source_engine: Handle,
        destination: *const Opaque,
        destination_engine: Handle,
        attr: *const Opaque,
    ) -> Status;
    fn dnnl_primitive_desc_query_md(desc: *const Opaque, what: c_int, index: c_int) -> *const Opaque;
    fn dnnl_primitive_desc_destroy(desc: Handle) -> Status;
    fn dnnl_primitive_create(primitive: *mut Handle, desc: *const Opaque) -> Status;
    fn dnnl_primitive_execute(primitive: *const Opaque, stream: Handle, count: c_int, args: *const ExecArg) -> Status;
    fn dnnl_primitive_destroy(primitive: Handle) -> Status;
    fn dnnl_get_effective_cpu_isa() -> c_int;
    fn omp_set_num_threads(threads: c_int);
    fn omp_get_max_threads() -> c_int;
}

const F32: c_int = 3;
const CPU: c_int = 1;
const TAG_ANY: c_int = 1;
const IN_ORDER: u32 = 1;
const USER_SCRATCHPAD: c_int = 1;
const FORWARD_TRAINING: c_int = 64;
const CONVOLUTION_DIRECT: c_int = 1;
const QUERY_WEIGHTS: c_int = 131;
const QUERY_SCRATCHPAD: c_int = 136;
const ARG_SOURCE: c_int = 1;
const ARG_DESTINATION: c_int = 17;
const ARG_WEIGHTS: c_int = 33;
const ARG_BIAS: c_int = 41;
const ARG_SCRATCHPAD: c_int = 80;
const ARG_DIFF_SOURCE: c_int = 129;
const ARG_DIFF_DESTINATION: c_int = 145;

/// A failed call: its name and oneDNN's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call} failed: {}", describe(*status))]
pub struct Error {
    call: &'static str,
    status: Status,
}

fn describe(status: Status) -> &'static str {
    match status {
        1 => "out of memory",
        2 => "invalid arguments",
        3 => "unimplemented",
        4 => "no implementation fits",
        5 => "run-time error",
        6 => "not required",
        _ => "unknown status",
    }
}

fn check(call: &'static str, status: Status) -> Result<(), Error> {
    if status == 0 { Ok(()) } else { Err(Error { call, status }) }
}

/// Limits OpenMP to one thread in the calling thread while it lives. A primitive runs with as many threads as its
/// **creation** was allowed, so both are done under this.
pub struct OneThread {
    before: c_int,
    /// The limit belongs to the thread.
    _not_send: PhantomData<*const ()>,
}

impl OneThread {
    /// Sets the limit.
    pub fn enter() -> Self {
        // SAFETY: reads and sets a per-thread control variable of the OpenMP run time; any thread may do so.
        let before = unsafe {
            let before = omp_get_max_threads();
            omp_set_num_threads(1);
            before
        };
        Self { before, _not_send: PhantomData }
    }
}

impl Drop for OneThread {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { omp_set_num_threads(self.before) }
    }
}

/// Makes an owner of a C handle.
macro_rules! owner {
    ($(#[$doc:meta])* $name:ident, $destroy:ident) => {
        $(#[$doc])*
        pub struct $name(NonNull<Opaque>);

        impl $name {
            fn create(call: &'static str, create: impl FnOnce(*mut Handle) -> Status) -> Result<Self, Error> {
                let mut handle = ptr::null_mut();
                check(call, create(&mut handle))?;
                NonNull::new(handle).map(Self).ok_or(Error { call, status: -1 })
            }

            fn raw(&self) -> Handle {
                self.0.as_ptr()
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the handle was created by oneDNN, is owned by this value alone and is not used afterwards.
                unsafe {
                    $destroy(self.raw());
                }
            }
        }

        // SAFETY: oneDNN's objects are not tied to the thread that made them.
        unsafe impl Send for $name {}
    };
}

owner!(
    /// The CPU.
    Engine,
    dnnl_engine_destroy
);
owner!(
    /// An in-order execution queue; on the CPU, calls run in the calling thread.
    Stream,
    dnnl_stream_destroy
);
owner!(MemoryDesc, dnnl_memory_desc_destroy);
owner!(Memory, dnnl_memory_destroy);
owner!(Attr, dnnl_primitive_attr_destroy);
owner!(PrimitiveDesc, dnnl_primitive_desc_destroy);
owner!(Primitive, dnnl_primitive_destroy);

// SAFETY: an engine is immutable after its creation and oneDNN allows its use from several threads.
unsafe impl Sync for Engine {}
// SAFETY: descriptors are immutable after their creation.
unsafe impl Sync for MemoryDesc {}
// SAFETY: descriptors are immutable after their creation.
unsafe impl Sync for PrimitiveDesc {}
// SAFETY: with a user-managed scratchpad (the only mode used here) a primitive may execute in several threads at once.
unsafe impl Sync for Primitive {}

/// The instruction sets that oneDNN uses, as the bits of its `dnnl_cpu_isa_t` in hexadecimal: results are equal to the bit where they are.
pub fn instruction_sets() -> String {
    // SAFETY: takes nothing and only reads what oneDNN has found out.
    format!("{:#x}", unsafe { dnnl_get_effective_cpu_isa() })
}

impl Engine {
    /// The CPU engine.
    pub fn cpu() -> Result<Self, Error> {
        // SAFETY: writes one handle to the pointer it is given.
        Self::create("dnnl_engine_create", |handle| unsafe { dnnl_engine_create(handle, CPU, 0) })
    }
}

impl Stream {
    /// A new stream.
    pub fn new(engine: &Engine) -> Result<Self, Error> {
        Self::create("dnnl_stream_create", |handle| {
            // SAFETY: the engine lives through the call; oneDNN's stream keeps no reference to the handle's memory.
            unsafe { dnnl_stream_create(handle, engine.raw(), IN_ORDER) }
        })
    }
}

impl MemoryDesc {
    fn strided(dims: &[usize], strides: &[usize]) -> Result<Self, Error> {
        let (rank, dims, strides) = (dims.len() as c_int, to_dims(dims), to_dims(strides));
        Self::create("dnnl_memory_desc_create_with_strides", |handle| {
            // SAFETY: both arrays hold at least `rank` ≤ 12 values.
            unsafe { dnnl_memory_desc_create_with_strides(handle, rank, dims.as_ptr(), F32, strides.as_ptr()) }
        })
    }

    fn any(dims: &[usize]) -> Result<Self, Error> {
        let (rank, dims) = (dims.len() as c_int, to_dims(dims));
        Self::create("dnnl_memory_desc_create_with_tag", |handle| {
            // SAFETY: the array holds at least `rank` ≤ 12 values.
            unsafe { dnnl_memory_desc_create_with_tag(handle, rank, dims.as_ptr(), F32, TAG_ANY) }
        })
    }

    /// The number of f32 it spans.
    fn len(&self) -> usize {
        // SAFETY: the descriptor is alive.
        unsafe { dnnl_memory_desc_get_size(self.raw()) }.div_ceil(4)
    }
}

impl PrimitiveDesc {
    fn query(&self, what: c_int) -> Result<MemoryDesc, Error> {
        // SAFETY: the primitive descriptor is alive; the result is borrowed from it and copied below.
        let borrowed = unsafe { dnnl_primitive_desc_query_md(self.raw(), what, 0) };
        if borrowed.is_null() {
            return Err(Error { call: "dnnl_primitive_desc_query_md", status: -1 });
        }
        // SAFETY: `borrowed` is a live descriptor.
        MemoryDesc::create("dnnl_memory_desc_clone", |handle| unsafe { dnnl_memory_desc_clone(handle, borrowed) })
    }
}

impl Memory {
    fn new(engine: &Engine, desc: &MemoryDesc) -> Result<Self, Error> {
        Self::create("dnnl_memory_create", |handle| {
            // SAFETY: a null data handle makes a memory object without a buffer; it is set before every use.
            unsafe { dnnl_memory_create(handle, desc.raw(), engine.raw(), ptr::null_mut()) }
        })
    }

    /// Points the object at a buffer that must stay valid until the next execution with it has ended.
    fn point_at(&mut self, data: *mut f32) -> Result<(), Error> {
        // SAFETY: only stores the pointer (there is no padding to clear in the plain layouts used here, and a packed
        // buffer holds its padding).
        check("dnnl_memory_set_data_handle", unsafe { dnnl_memory_set_data_handle(self.raw(), data.cast()) })
    }
}

fn to_dims(values: &[usize]) -> Dims {
    let mut dims = [0; 12];
    for (dim, &value) in dims.iter_mut().zip(values) {
        *dim = value as i64;
    }
    dims
}

fn attributes() -> Result<Attr, Error> {
    // SAFETY: writes one handle to the pointer it is given.
    let attr = Attr::create("dnnl_primitive_attr_create", |handle| unsafe { dnnl_primitive_attr_create(handle) })?;
    // SAFETY: the attributes are alive.
    check("dnnl_primitive_attr_set_scratchpad_mode", unsafe {
        dnnl_primitive_attr_set_scratchpad_mode(attr.raw(), USER_SCRATCHPAD)
    })?;
    Ok(attr)
}

/// The geometry of a convolution over NHWC activations.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Images per call.
    pub batch: usize,
    /// Input height, width, channels.
    pub input: [usize; 3],
    /// Output height, width, channels.
    pub output: [usize; 3],
    /// Kernel height, width.
    pub kernel: [usize; 2],
    /// Vertical, horizontal.
    pub stride: [usize; 2],
    /// Top, bottom, left, right.
    pub pad: [usize; 4],
    /// Vertical, horizontal; 1 is dense.
    pub dilation: [usize; 2],
    /// The number of groups.
    pub groups: usize,
}

impl Geometry {
    fn activation(&self, [height, width, channels]: [usize; 3]) -> Result<MemoryDesc, Error> {
        MemoryDesc::strided(
            &[self.batch, channels, height, width],
            &[height * width * channels, 1, width * channels, channels],
        )
    }

    /// The logical dimensions and the strides of OHWI weights: `[G,] O, I, KH, KW`.
    fn weights(&self) -> (Vec<usize>, Vec<usize>) {
        let [height, width] = self.kernel;
        let (outputs, inputs) = (self.output[2] / self.groups, self.input[2] / self.groups);
        let mut dims = vec![outputs, inputs, height, width];
        let mut strides = vec![height * width * inputs, 1, width * inputs, inputs];
        if self.groups > 1 {
            dims.insert(0, self.groups);
            strides.insert(0, outputs * height * width * inputs);
        }
        (dims, strides)
    }

    fn len(&self, shape: [usize; 3]) -> usize {
        self.batch * shape.iter().product::<usize>()
    }
}

/// A direction of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Output from input.
    Forward,
    /// The input's gradient from the output's.
    BackwardData,
}

/// A convolution primitive with its weights in the layout it prefers. It may run in several threads at once.
pub struct Convolution {
    direction: Direction,
    primitive: Primitive,
    source: MemoryDesc,
    destination: MemoryDesc,
    weights: MemoryDesc,
    scratchpad: MemoryDesc,
    bias: MemoryDesc,
    packed: Vec<f32>,
    bias_values: Vec<f32>,
    geometry: Geometry,
}

impl Convolution {
    /// Makes the primitive and packs the weights: `weights` in OHWI order, `bias` per output channel (ignored by the
    /// backward direction).
    pub fn new(
        engine: &Engine,
        geometry: &Geometry,
        direction: Direction,
        weights: &[f32],
        bias: &[f32],
    ) -> Result<Self, Error> {
        let _one_thread = OneThread::enter();
        let invalid = Error { call: "convolution", status: 2 };
        let (dims, strides) = geometry.weights();
        if weights.len() != dims.iter().product::<usize>() || bias.len() != geometry.output[2] {
            return Err(invalid);
        }
        let source = geometry.activation(geometry.input)?;
        let destination = geometry.activation(geometry.output)?;
        let bias_desc = MemoryDesc::strided(&[geometry.output[2]], &[1])?;
        let any = MemoryDesc::any(&dims)?;
        let stride = to_dims(&geometry.stride);
        let dilation = to_dims(&geometry.dilation.map(|step| step - 1));
        let before = to_dims(&[geometry.pad[0], geometry.pad[2]]);
        let after = to_dims(&[geometry.pad[1], geometry.pad[3]]);
        let attr = attributes()?;
        let forward = PrimitiveDesc::create("dnnl_convolution_forward_primitive_desc_create", |handle| {
            // SAFETY: all descriptors live through the call; the arrays hold a value per spatial axis.
            unsafe {
                dnnl_convolution_forward_primitive_desc_create(
                    handle,
                    engine.raw(),
                    FORWARD_TRAINING,
                    CONVOLUTION_DIRECT,
                    source.raw(),
                    any.raw(),
                    bias_desc.raw(),
                    destination.raw(),
                    stride.as_ptr(),
                    dilation.as_ptr(),
                    before.as_ptr(),
                    after.as_ptr(),
                    attr.raw(),
                )
            }
        })?;
        let desc = match direction {
            Direction::Forward => forward,
            Direction::BackwardData => {
                PrimitiveDesc::create("dnnl_convolution_backward_data_primitive_desc_create", |handle| {
                    // SAFETY: as above; the hint is a live forward descriptor of the same convolution.
                    unsafe {
                        dnnl_convolution_backward_data_primitive_desc_create(
                            handle,
                            engine.raw(),
                            CONVOLUTION_DIRECT,
                            source.raw(),
                            any.raw(),
                            destination.raw(),
                            stride.as_ptr(),
                            dilation.as_ptr(),
                            before.as_ptr(),
                            after.as_ptr(),
                            forward.raw(),
                            attr.raw(),
                        )
                    }
                })?
            }
        };
        let weights_desc = desc.query(QUERY_WEIGHTS)?;
        let scratchpad = desc.query(QUERY_SCRATCHPAD)?;
        let primitive = Primitive::create("dnnl_primitive_create", |handle| {
            // SAFETY: the descriptor lives through the call.
            unsafe { dnnl_primitive_create(handle, desc.raw()) }
        })?;
        let plain = MemoryDesc::strided(&dims, &strides)?;
        let packed = reorder(engine, weights, &plain, &weights_desc)?;
        Ok(Self {
            direction,
            primitive,
            source,
            destination,
            weights: weights_desc,
            scratchpad,
            bias: bias_desc,
            packed,
            bias_values: bias.to_vec(),
            geometry: geometry.clone(),
        })
    }

    /// What one thread needs to run it.
    pub fn bind(self: &Arc<Self>, engine: &Engine) -> Result<BoundConvolution, Error> {
        let mut weights = Memory::new(engine, &self.weights)?;
        let mut bias = Memory::new(engine, &self.bias)?;
        // oneDNN takes mutable pointers everywhere, but only reads these.
        weights.point_at(self.packed.as_ptr().cast_mut())?;
        bias.point_at(self.bias_values.as_ptr().cast_mut())?;
        Ok(BoundConvolution {
            source: Memory::new(engine, &self.source)?,
            destination: Memory::new(engine, &self.destination)?,
            weights,
            bias,
            scratchpad: Memory::new(engine, &self.scratchpad)?,
            convolution: Arc::clone(self),
        })
    }
}

/// The memory objects of one thread for one [`Convolution`].
pub struct BoundConvolution {
    convolution: Arc<Convolution>,
    source: Memory,
    destination: Memory,
    weights: Memory,
    bias: Memory,
    scratchpad: Memory,
}

impl BoundConvolution {
    /// The number of f32 of scratch memory that [`Self::run`] needs.
    pub fn scratch_len(&self) -> usize {
        self.convolution.scratchpad.len()
    }

    /// Forward reads an input and writes an output; backward reads the output's gradient and writes the input's.
    pub fn run(
        &mut self,
        stream: &mut Stream,
        read: &[f32],
        write: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let convolution = &*self.convolution;
        let geometry = &convolution.geometry;
        let (input, output) = (geometry.len(geometry.input), geometry.len(geometry.output));
        let forward = convolution.direction == Direction::Forward;
        let (reads, writes) = if forward { (input, output) } else { (output, input) };
        if read.len() != reads || write.len() != writes || scratch.len() < convolution.scratchpad.len() {
            return Err(Error { call: "convolution", status: 2 });
        }
        let (from, to) =
            if forward { (&mut self.source, &mut self.destination) } else { (&mut self.destination, &mut self.source) };
        // As above, what is read is only read.
        from.point_at(read.as_ptr().cast_mut())?;
        to.point_at(write.as_mut_ptr())?;
        self.scratchpad.point_at(scratch.as_mut_ptr())?;
        let arg = |arg, memory: &Memory| ExecArg { arg, memory: memory.raw() };
        let (source, destination) =
            if forward { (ARG_SOURCE, ARG_DESTINATION) } else { (ARG_DIFF_SOURCE, ARG_DIFF_DESTINATION) };
        let args = [
            arg(source, &self.source),
            arg(destination, &self.destination),
            arg(ARG_WEIGHTS, &self.weights),
            arg(ARG_SCRATCHPAD, &self.scratchpad),
            arg(ARG_BIAS, &self.bias),
        ];
        let count = if forward { 5 } else { 4 };
        // SAFETY: every memory object points at a buffer of at least its descriptor's size: the activations and the
        // scratchpad are checked above and borrowed until the end of this function, the written ones exclusively; the
        // packed weights and the bias were sized at creation and live as long as `self.convolution`. On the CPU the
        // call returns after the computation has ended.
        check("dnnl_primitive_execute", unsafe {
            dnnl_primitive_execute(convolution.primitive.raw(), stream.raw(), count, args.as_ptr())
        })
    }
}

/// `values` in another layout.
fn reorder(engine: &Engine, values: &[f32], from: &MemoryDesc, to: &MemoryDesc) -> Result<Vec<f32>, Error> {
    let mut result = vec![0.0; to.len()];
    let attr = attributes()?;
    let desc = PrimitiveDesc::create("dnnl_reorder_primitive_desc_create", |handle| {
        // SAFETY: all handles live through the call.
        unsafe {
            dnnl_reorder_primitive_desc_create(handle, from.raw(), engine.raw(), to.raw(), engine.raw(), attr.raw())
        }
    })?;
    let scratchpad = desc.query(QUERY_SCRATCHPAD)?;
    let mut scratch = vec![0.0; scratchpad.len()];
    // SAFETY: the descriptor lives through the call.
    let primitive =
        Primitive::create("dnnl_primitive_create", |handle| unsafe { dnnl_primitive_create(handle, desc.raw()) })?;
    let stream = Stream::new(engine)?;
    let (mut source, mut destination, mut work) =
        (Memory::new(engine, from)?, Memory::new(engine, to)?, Memory::new(engine, &scratchpad)?);
    source.point_at(values.as_ptr().cast_mut())?;
    destination.point_at(result.as_mut_ptr())?;
    work.point_at(scratch.as_mut_ptr())?;
    let args = [
        ExecArg { arg: ARG_SOURCE, memory: source.raw() },
        ExecArg { arg: ARG_DESTINATION, memory: destination.raw() },
        ExecArg { arg: ARG_SCRATCHPAD, memory: work.raw() },
    ];
    // SAFETY: the caller has checked that `values` has the source's size; the other two buffers were made to size. The
    // source is only read. The stream is waited for before the buffers are used again.
    check("dnnl_primitive_execute", unsafe {
        dnnl_primitive_execute(primitive.raw(), stream.raw(), args.len() as c_int, args.as_ptr())
    })?;
    // SAFETY: the stream is alive.
    check("dnnl_stream_wait", unsafe { dnnl_stream_wait(stream.raw()) })?;
    Ok(result)
}
