package ipvsadm

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Director is what carries commands out: a running lvx.
type Director interface {
	// Edit carries out commands one after the other, and brings them into
	// force as one change.
	Edit(commands []Command) (Result, error)
	// List gives what a view shows.
	List(v View) (Listing, error)
}

// Result is what came of commands.
type Result struct {
	Failures []*Failure `json:"failures"`        // one for each command, nil if it was carried out
	Notes    []string   `json:"notes,omitempty"` // for standard error
}

// Call is one invocation of ipvsadm.
type Call struct {
	Program        string   // as it was typed, for messages
	Args           []string // behind it
	Host           Host
	Names          Names
	Director       Director
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Run does what ipvsadm does and returns its exit status.
func (c Call) Run() int {
	if len(c.Args) == 0 {
		status, _ := c.run(Command{Op: List}, false)
		return status
	}
	if len(c.Args) == 2 && c.Args[1] == "--force" && (c.Args[0] == "-C" || c.Args[0] == "--clear") { // ipvsadm has no such option
		status, _ := c.edit([]Command{{Op: Flush, Force: true}})
		return status
	}
	command, fail := Parse(c.Program, c.Args, c.Host)
	if fail != nil {
		status, _ := c.failed(fail)
		return status
	}
	status, _ := c.run(command, false)
	return status
}

// failed prints a failure. ends reports whether ipvsadm would exit, and not
// go on with the next rule.
func (c Call) failed(f *Failure) (status int, ends bool) {
	to := c.Stderr
	if f.Status == 0 {
		to = c.Stdout
	}
	fmt.Fprintln(to, f.Text)
	return f.Status, f.Ends
}

// broken reports what is no answer of the table: no daemon, no permission.
func (c Call) broken(err error) (status int, ends bool) {
	fmt.Fprintf(c.Stderr, "lvx: %v\n", err)
	return 2, true
}

// run carries out one command; restoring says that it is a rule.
func (c Call) run(command Command, restoring bool) (status int, ends bool) {
	switch {
	case command.Op.Edits():
		return c.edit([]Command{command})
	case command.Op == Restore && restoring:
		return c.failed(tryHelp(c.Program))
	case command.Op == Restore:
		return c.restore(nil), false
	}
	return c.list(command)
}

func (c Call) edit(commands []Command) (status int, ends bool) {
	if len(commands) == 0 {
		return 0, false
	}
	result, err := c.Director.Edit(commands)
	if err != nil {
		return c.broken(err)
	}
	for _, f := range result.Failures {
		status, ends = 0, false
		if f != nil {
			status, ends = c.failed(f)
		}
	}
	for _, note := range result.Notes {
		fmt.Fprintf(c.Stderr, "lvx: %s\n", note)
	}
	return status, ends
}

func (c Call) list(command Command) (status int, ends bool) {
	v := command.View
	v.Names = c.Names
	l, err := c.Director.List(v)
	if err != nil {
		return c.broken(err)
	}
	if command.Op == Save {
		err = PrintRules(c.Stdout, l, v)
	} else {
		if command.Key != (Key{}) && !v.Connections {
			if !slices.ContainsFunc(l.Services, func(s ListedService) bool { return s.Key() == command.Key }) {
				return c.failed(&Failure{Text: ErrNoService.Text, Status: 1, Ends: true})
			}
			v.Only = &command.Key
		}
		err = Print(c.Stdout, l, v)
	}
	if err != nil {
		return c.broken(err)
	}
	return 0, false
}

// RestoreAll does what ipvsadm-restore does: the rules of standard input take
// the place of the table. All of them come into force together, so that
// connections of services that stay do not notice. Lines that begin with "#"
// are comments here.
func (c Call) RestoreAll() (status int) {
	var rules strings.Builder
	lines := bufio.NewScanner(c.Stdin)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), "#") {
			rules.WriteString(lines.Text() + "\n")
		}
	}
	if err := lines.Err(); err != nil {
		status, _ = c.broken(fmt.Errorf("rules: %w", err))
		return status
	}
	c.Stdin = strings.NewReader(rules.String())
	return c.restore([]Command{{Op: Flush}})
}

// restore carries out rules, behind what is waiting already. Those that edit
// wait until there is no other one, and come into force together.
func (c Call) restore(waiting []Command) (status int) {
	ended := false
	flush := func() bool {
		if len(waiting) > 0 {
			status, ended = c.edit(waiting)
			waiting = nil
		}
		return !ended
	}
	err := Rules(c.Stdin, func(args []string) bool {
		command, fail := Parse(c.Program, args, c.Host)
		if fail == nil && command.Op.Edits() {
			waiting = append(waiting, command)
			return true
		}
		if !flush() {
			return false
		}
		if fail != nil {
			status, ended = c.failed(fail)
		} else {
			status, ended = c.run(command, true)
		}
		return !ended
	})
	flush()
	if err != nil {
		status, _ = c.broken(fmt.Errorf("rules: %w", err))
	}
	return status
}
