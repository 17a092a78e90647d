"""Where the parts meet: settings in, a trained bundle out. Everything the command line can do is a function here."""
