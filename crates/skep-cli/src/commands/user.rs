//! `skep user`: who may connect to a coordinator, and what they may do.

use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use skep_engine::Role;
use skep_server::Error;
use skep_server::auth::users::{User, UserFile};

use super::{fail, fail_with, say};
use crate::password::ask_password;
use crate::style::Palette;

const EXAMPLES: &str = "\
Examples:
  skep user add ann --role admin --data-dir ./warehouse
  generate-password | skep user add etl --role writer --users /etc/skep/users
  skep user list --data-dir ./warehouse

Passwords are asked for at the terminal, or are the first line of standard input. A coordinator that
runs notices changes within a second; it asks nobody who they are if there was no file of users when
it started.";

/// Add, change and remove the users of a coordinator.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct UserArgs {
    #[command(subcommand)]
    action: Action,

    /// The file of users [default: users in the data directory]
    #[arg(long, env = "SKEP_USERS", value_name = "FILE", global = true)]
    users: Option<PathBuf>,

    /// The data directory of the coordinator
    #[arg(long, env = "SKEP_DATA_DIR", value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Add a user
    Add {
        /// The name
        name: String,

        /// reader asks, writer changes tables too, admin sees and does everything
        #[arg(long, default_value = "reader", value_name = "ROLE", value_parser = role)]
        role: Role,
    },
    /// Remove a user, whose tokens end with that
    Remove {
        /// The name
        name: String,
    },
    /// Write all users and their roles
    List,
    /// Give a user another password, which ends the tokens of the old one
    Passwd {
        /// The name
        name: String,
    },
}

fn role(text: &str) -> Result<Role, String> {
    text.parse()
}

/// Does what was asked for.
pub(crate) fn run(args: &UserArgs, palette: Palette) -> ExitCode {
    let file = match (&args.users, &args.data_dir) {
        (Some(path), _) => UserFile::new(path),
        (None, Some(directory)) => UserFile::of_data_dir(directory),
        (None, None) => {
            let hint = "add --data-dir DIR or --users FILE, as the coordinator has it";
            return fail("it is not said where the users are", Some(hint), palette);
        }
    };
    match act(&file, &args.action) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Server(error)) => fail_with(&error, palette),
        Err(Failure::Io(error)) => fail(&error.to_string(), None, palette),
    }
}

enum Failure {
    Server(Error),
    Io(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Server(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn act(file: &UserFile, action: &Action) -> Result<(), Failure> {
    match action {
        Action::Add { name, role } => {
            let password = new_password(name)?;
            file.edit(|users| users.add(name, User::new(*role, &password)?))?;
        }
        Action::Remove { name } => file.edit(|users| users.remove(name).map(drop))?,
        Action::List => {
            for (name, user) in file.read()?.iter() {
                say(&format!("{name} {}", user.role))?;
            }
        }
        Action::Passwd { name } => {
            if file.read()?.get(name).is_none() {
                // Before anybody thinks of a password.
                file.edit(|users| users.set_password(name, ""))?;
            }
            let password = new_password(name)?;
            file.edit(|users| users.set_password(name, &password))?;
        }
    }
    Ok(())
}

/// Reads a password: typed twice and not shown, or a line of standard input.
fn new_password(name: &str) -> io::Result<String> {
    if !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        return Ok(line.trim_end_matches(['\n', '\r']).to_owned());
    }
    let first = ask_password(&format!("password of {name}: "))?;
    match ask_password("once more: ")? == first {
        true => Ok(first),
        false => Err(io::Error::other("the two passwords differ")),
    }
}
