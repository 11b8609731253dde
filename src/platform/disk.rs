//! Files and folders. Every durable write in the house goes through here.
