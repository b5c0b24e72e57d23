package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// noArguments is the Args of a command that takes none. Of one that has verbs, what
// stands there is a verb that it does not know.
func noArguments(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case cmd.HasAvailableSubCommands():
		return unknownCommand(cmd, args[0])
	}
	return fmt.Errorf("%q: %s takes no arguments", args[0], cmd.CommandPath())
}

// refuseUnknown makes every command that only has verbs refuse those that it does
// not know, "help" too: of itself cobra prints some help and reports success.
func refuseUnknown(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		switch {
		case sub.Name() == "help":
			sub.Args = func(help *cobra.Command, args []string) error {
				found, rest, err := help.Root().Find(args)
				if err == nil && len(rest) > 0 && found.HasAvailableSubCommands() {
					err = unknownCommand(found, rest[0])
				}
				return err
			}
		case sub.HasAvailableSubCommands() && !sub.Runnable():
			sub.Args = noArguments
			sub.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
		refuseUnknown(sub)
	}
}

// unknownCommand names the verbs that look like a misspelt one.
func unknownCommand(parent *cobra.Command, word string) error {
	parent.SuggestionsMinimumDistance = 2 // two letters that have changed places are two edits
	if near := parent.SuggestionsFor(word); len(near) > 0 {
		return fmt.Errorf("unknown command %q (did you mean %s?)", word, strings.Join(near, " or "))
	}
	return fmt.Errorf("unknown command %q", word)
}

// explainFlagError says what a flag wants where pflag has only Go's words for it.
func explainFlagError(err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		flag := invalid.GetFlag()
		return fmt.Errorf("--%s %q: not %s", flag.Name, invalid.GetValue(), wantedValue(flag.Value.Type(), invalid.Unwrap()))
	}
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		if short := unknown.GetSpecifiedShortnames(); strings.Trim(short, "0123456789.") == "" && short != "" {
			return fmt.Errorf("-%s: a number below 0", short)
		}
	}
	return err
}

// wantedValue is what the flags of a type take, in words; cause is what is said of a
// type that is lvx's own.
func wantedValue(kind string, cause error) string {
	switch {
	case kind == "duration":
		return "a time such as 90s or 10m"
	case kind == "bool":
		return "true or false"
	case strings.HasPrefix(kind, "uint"):
		return "a whole number from 0 on, or too large"
	case strings.HasPrefix(kind, "int"):
		return "a whole number, or too large"
	case strings.HasPrefix(kind, "float"):
		return "a number"
	}
	return fmt.Sprintf("of this kind (%v)", cause)
}
