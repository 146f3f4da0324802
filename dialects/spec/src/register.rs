//! Registering laws of noise: a name that mxc gives a meaning, or will, is nobody else's.

use crate::{
    law::{self, NoiseLaw, RegisterError},
    noise::{IDEAL, MODELS, UNSUPPORTED},
};

/// Whether a law may have a name: it can stand in a specification, and nothing has it.
///
/// # Errors
///
/// [`RegisterError::NotAName`], [`RegisterError::Reserved`] or [`RegisterError::Taken`].
pub fn check_name(name: &str) -> Result<(), RegisterError> {
    if !law::is_name(name) {
        return Err(RegisterError::NotAName(name.to_owned()));
    }
    let is_built_in = MODELS.iter().any(|info| info.name == name);
    if is_built_in || IDEAL.contains(&name) || UNSUPPORTED.contains(&name) {
        return Err(RegisterError::Reserved(name.to_owned()));
    }
    match law::find(name) {
        Some(_) => Err(RegisterError::Taken(name.to_owned())),
        None => Ok(()),
    }
}

/// Registers a law as it is. `mxc_runtime::law::register` does so after it has tried it out.
///
/// # Errors
///
/// As of [`check_name`], also where another thread has been faster.
pub fn insert(name: &str, law: NoiseLaw) -> Result<(), RegisterError> {
    check_name(name)?;
    law::add(name, law)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{self, Component, Model, NoiseSpec};

    fn law() -> NoiseLaw {
        NoiseLaw::new(0.0, 1.0, |_, _| {})
    }

    #[test]
    fn a_name_is_registered_once_and_then_stands_in_specifications() {
        let text = "of_a_test(scale=6%,site=input,lifetime=chip)+gaussian(sigma=1%)";
        let message = text.parse::<NoiseSpec>().unwrap_err().to_string();
        assert!(
            message.contains("there is no component `of_a_test`; built in are `gaussian` and `uniform`"),
            "{message}"
        );
        insert("of_a_test", law()).unwrap();
        let spec: NoiseSpec = text.parse().unwrap();
        assert_eq!(spec.to_string(), text);
        let Model::Registered { law: found, scale } = spec.components[0].model else { panic!("{spec:?}") };
        assert_eq!((found.name(), scale), ("of_a_test", 0.06));
        assert_eq!(spec.to_string().parse::<NoiseSpec>().unwrap(), spec);
        let component = Component::new(Model::Registered { law: found, scale: 0.5 });
        assert_eq!(component.to_string(), "of_a_test(scale=50%)");
        assert!(noise::help().contains("of_a_test(scale=SHARE[,site=input|output][,lifetime=sample|chip])"));

        assert_eq!(insert("of_a_test", law()), Err(RegisterError::Taken("of_a_test".to_owned())));
        for name in ["gaussian", "adc", "ideal", "none"] {
            assert_eq!(insert(name, law()), Err(RegisterError::Reserved(name.to_owned())));
        }
        for name in ["", "6", "a-b", "a.b", "a b", "ä", "a(", "a+b"] {
            assert_eq!(insert(name, law()), Err(RegisterError::NotAName(name.to_owned())));
        }
        for (text, part) in [
            ("of_a_test", "of_a_test needs a scale"),
            ("of_a_test(sigma=1%)", "of_a_test has no `sigma`, only scale, site and lifetime"),
            ("of_a_test(scale=-1%)", "negative"),
            ("nothing_such(scale=1%)", "registered by this program is `of_a_test`"),
        ] {
            let message = text.parse::<NoiseSpec>().unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
