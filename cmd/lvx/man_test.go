package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Every command that --help shows has a page, with its options and examples.
func TestManPages(t *testing.T) {
	root := newRootCmd()
	pages := manPages(root)
	var check func(cmd *cobra.Command)
	check = func(cmd *cobra.Command) {
		page, ok := pages["man8/"+strings.ReplaceAll(cmd.CommandPath(), " ", "-")+".8"]
		if !ok {
			t.Errorf("%s has no page", cmd.CommandPath())
		}
		for _, part := range []string{".TH ", ".SH NAME\n", ".SH SYNOPSIS\n", ".SH SEE ALSO\n"} {
			if strings.Count(page, part) != 1 {
				t.Errorf("%s: the page has no %q, or several:\n%s", cmd.CommandPath(), part, page)
			}
		}
		if cmd.Example != "" && !strings.Contains(page, ".SH EXAMPLES\n") {
			t.Errorf("%s: the page lacks the examples", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				check(sub)
			}
		}
	}
	check(root)
	if page := pages["man8/lvx-list.8"]; !strings.Contains(page, ".B \\-c, \\-\\-connections\n") {
		t.Errorf("lvx list:\n%s", page)
	}
	if page := pages["man5/lvx.yaml.5"]; !strings.Contains(page, "services:") {
		t.Errorf("lvx.yaml:\n%s", page)
	}
	if _, ok := pages["man8/lvx-man.8"]; ok {
		t.Error("a hidden command has a page")
	}
}

func TestRoff(t *testing.T) {
	for text, want := range map[string]string{
		"plain":           "plain",
		"--json":          `\-\-json`,
		".hidden\n'quote": "\\&.hidden\n\\&'quote",
		`a\b`:             `a\eb`,
		"trailing\n":      "trailing",
		"two\n\nparts":    "two\n\nparts",
	} {
		if got := roff(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}
