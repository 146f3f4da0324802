//! Options as pairs of names and values.

use clap::{ArgAction, Args, Command};

/// Reads options from pairs of names, as on the command line but without `--`, and values. `_` in a name is `-`; an option that is on or off
/// takes `true` or `false`; of one that cannot be given several times the last counts.
///
/// ```
/// use mxc_options::{Common, named};
/// let given = [("seed".to_owned(), "7".to_owned())];
/// assert_eq!(named::parse::<Common>(&given).unwrap().seed, 7);
/// let error = named::parse::<Common>(&[("sed".to_owned(), "7".to_owned())]).unwrap_err();
/// assert!(error.contains("sed") && error.contains("seed"), "{error}");
/// ```
///
/// # Errors
///
/// One message that names the option and says what it takes.
pub fn parse<T: Args>(given: &[(String, String)]) -> Result<T, String> {
    let mut command = command::<T>().args_override_self(true);
    let mut words = Vec::new();
    for (name, value) in given {
        let name = name.trim_start_matches('-').replace('_', "-");
        let is_flag = command.get_arguments().any(|option| {
            option.get_long() == Some(name.as_str()) && matches!(option.get_action(), ArgAction::SetTrue)
        });
        match (is_flag, value.as_str()) {
            (true, "true") => words.push(format!("--{name}")),
            (true, "false") => {}
            (true, other) => return Err(format!("option '{name}' takes true or false, not '{other}'")),
            (false, value) => words.push(format!("--{name}={value}")),
        }
    }
    let read = command.try_get_matches_from_mut(words).and_then(|matches| T::from_arg_matches(&matches));
    read.map_err(|error| message(&error))
}

/// The options of a group: what each is called, takes and means.
pub fn command<T: Args>() -> Command {
    T::augment_args(Command::new("mxc").no_binary_name(true).disable_help_flag(true).disable_version_flag(true))
}

/// What is wrong, without the usage of a command that nobody has called, on one line.
fn message(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text.trim_start_matches("error: ").lines().map(str::trim);
    let told = lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let told: Vec<_> = told.filter(|line| !line.is_empty()).collect();
    told.join("; ")
}
