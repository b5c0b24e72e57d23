package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lvx-lb/lvx/pkg/config"
)

// newManCmd is hidden: it is for those who package lvx.
func newManCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIRECTORY",
		Short:   "write the manual pages",
		Long:    "Writes a manual page for every command, and one for the configuration file.",
		Example: "  lvx man /usr/local/share/man",
		Args:    cobra.ExactArgs(1),
		Hidden:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			for path, text := range manPages(cmd.Root()) {
				path = filepath.Join(args[0], path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// manPages makes all pages, by their path below a directory of manual pages.
func manPages(root *cobra.Command) map[string]string {
	pages := map[string]string{"man5/lvx.yaml.5": configPage(config.Reference())}
	var add func(cmd *cobra.Command)
	add = func(cmd *cobra.Command) {
		if !cmd.IsAvailableCommand() && cmd.HasParent() {
			return
		}
		pages["man8/"+pageName(cmd)+".8"] = commandPage(cmd)
		for _, sub := range cmd.Commands() {
			add(sub)
		}
	}
	add(root)
	return pages
}

func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// commandPage is the manual page of one command, from what --help says.
func commandPage(cmd *cobra.Command) string {
	cmd.InitDefaultHelpFlag()
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s 8 \"\" \"lvx %s\" \"lvx\"\n", strings.ToUpper(pageName(cmd)), roff(version))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(pageName(cmd)), roff(cmd.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.nf\n%s\n.fi\n", roff(cmd.UseLine()))
	if text := strings.TrimSpace(cmd.Long); text != "" {
		fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n", paragraphs(text))
	}
	flags := strings.Builder{}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			flags.WriteString(flagEntry(f))
		}
	})
	if flags.Len() > 0 {
		fmt.Fprintf(&b, ".SH OPTIONS\n%s", flags.String())
	}
	if cmd.Example != "" {
		fmt.Fprintf(&b, ".SH EXAMPLES\n.nf\n%s\n.fi\n", roff(cmd.Example))
	}
	if !cmd.HasParent() {
		b.WriteString(".SH EXIT STATUS\n0: done. 1: failed. 2: wrong usage.\n")
		b.WriteString(".SH FILES\n.nf\n/etc/lvx/lvx.yaml\n/run/lvx/lvx.sock\n/sys/fs/bpf/lvx\n/var/lib/lvx\n.fi\n")
	}
	fmt.Fprintf(&b, ".SH SEE ALSO\n%s\n", strings.Join(related(cmd), ",\n"))
	return b.String()
}

// flagEntry is a flag, its value and what it is for.
func flagEntry(f *pflag.Flag) string {
	value, usage := pflag.UnquoteUsage(f)
	name := "--" + f.Name
	if f.Shorthand != "" {
		name = "-" + f.Shorthand + ", " + name
	}
	if value != "" {
		name += " " + value
	}
	if !slices.Contains([]string{"", "0", "[]", "false"}, f.DefValue) {
		usage += " (" + f.DefValue + " unless given)"
	}
	return fmt.Sprintf(".TP\n.B %s\n%s\n", roff(name), roff(usage))
}

// related names the pages above, below and of the configuration file.
func related(cmd *cobra.Command) []string {
	var pages []string
	if cmd.HasParent() {
		pages = append(pages, ".BR "+roff(pageName(cmd.Parent()))+" (8)")
	}
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			pages = append(pages, ".BR "+roff(pageName(sub))+" (8)")
		}
	}
	pages = append(pages, ".BR lvx.yaml (5)")
	for i := range pages[:len(pages)-1] {
		pages[i] += " "
	}
	return pages
}

// configPage is the reference file as a manual page.
func configPage(reference string) string {
	return ".TH LVX.YAML 5 \"\" \"lvx " + roff(version) + "\" \"lvx\"\n" +
		".SH NAME\nlvx.yaml \\- configuration of lvx\n" +
		".SH DESCRIPTION\nEvery key, its default and its range, in a file that lvx accepts.\n" +
		".SH REFERENCE\n.nf\n" + roff(reference) + "\n.fi\n.SH SEE ALSO\n.BR lvx (8)\n"
}

// paragraphs keeps the paragraphs of a text, whose lines roff fills anew.
func paragraphs(text string) string {
	return strings.ReplaceAll(roff(text), "\n\n", "\n.PP\n")
}

// roff makes a text harmless: no line of it is a request, no backslash an
// escape.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(strings.TrimRight(text, "\n"))
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
