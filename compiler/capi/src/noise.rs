//! Laws of noise of a caller.

use crate::{
    error::{guard, mxc_error},
    failure::Failure,
    object::text,
};
use mxc::NoiseLaw;
use std::ffi::{c_char, c_void};

/// Makes `count` draws of `count` times as many uniform words of 32 bits as the law takes a draw, those of a draw next to each other. It must be a
/// pure function, draw by draw. It is called from several threads at once.
pub type mxc_noise_callback =
    Option<unsafe extern "C" fn(user: *mut c_void, words: *const u32, draws: *mut f32, count: usize)>;

/// What a caller draws by.
#[derive(Clone, Copy)]
struct Drawing {
    fill: unsafe extern "C" fn(user: *mut c_void, words: *const u32, draws: *mut f32, count: usize),
    user: *mut c_void,
}

// SAFETY: the contract of the callback is that any thread may call it.
unsafe impl Send for Drawing {}
// SAFETY: as above.
unsafe impl Sync for Drawing {}

impl Drawing {
    fn draw(&self, words: &[u32], draws: &mut [f32]) {
        // SAFETY: by the entries' contract it may be called with its own data; it writes as many draws as there are.
        unsafe { (self.fill)(self.user, words.as_ptr(), draws.as_mut_ptr(), draws.len()) }
    }
}

/// Registers a law of noise under a name: from then on, and as long as the process lives, `NAME(scale=6%)` is a component of noise
/// specifications as any other, of which `fill` makes the draws. `mean` and `variance` are the draws', `words` says how many words of 32 bits each takes, 1 to 4. The
/// law is tried out, and refused where its draws are not so. What is kept for the process is this alone; `user` must live as long. A package holds
/// the name, not the law: who opens it registers the law before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mxc_noise_register(
    name: *const c_char,
    mean: f64,
    variance: f64,
    words: usize,
    fill: mxc_noise_callback,
    user: *mut c_void,
) -> *mut mxc_error {
    guard(|| {
        let name = text(name, "name of the law")?;
        let fill = fill.ok_or_else(|| Failure::argument("the function that draws is null"))?;
        let drawing = Drawing { fill, user };
        let law = NoiseLaw::new(mean, variance, move |words, draws| drawing.draw(words, draws)).words(words);
        mxc::register_noise(name, law).map_err(|error| Failure::option(error.to_string()))
    })
}
