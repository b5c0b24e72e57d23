package health

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// firstWeightStatus is the exit status that means weight 0 in a check whose
// status says the weight; each one more is a weight of one more, up to 253.
const firstWeightStatus = 2

// execChecker runs a program of the operator's: exit status 0 is a pass. It
// gets LVX_REAL, LVX_PORT and LVX_VIP besides the configured environment.
type execChecker struct {
	argv, env []string
	user      *syscall.Credential
	isDynamic bool   // the exit status says the weight
	weight    Weight // by the last pass
}

func newExec(t Target) (Checker, error) {
	c := &execChecker{argv: splitLines(t.Spec.Argv), user: guard.Unprivileged(), isDynamic: t.Spec.DynamicWeight}
	if len(c.argv) == 0 {
		return nil, errors.New("exec check without a command")
	}
	if t.Port != 0 {
		c.env = append(c.env, fmt.Sprintf("LVX_PORT=%d", t.Port))
	}
	if t.Real.IsValid() {
		c.env = append(c.env, "LVX_REAL="+t.Real.String())
	}
	if t.VIP.IsValid() {
		c.env = append(c.env, "LVX_VIP="+t.VIP.String())
	}
	c.env = append(c.env, splitLines(t.Spec.Env)...)
	return c, nil
}

// splitLines splits a list as a Spec holds it.
func splitLines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

func (c *execChecker) Check(ctx context.Context) error {
	out, err := guard.Program{Argv: c.argv, Env: c.env, As: c.user}.Run(ctx)
	c.weight = Weight{}
	if err == nil {
		return nil
	}
	var status guard.ExitStatus
	if errors.As(err, &status) && c.isDynamic && status >= firstWeightStatus {
		c.weight = Weight{IsFixed: true, Value: int(status) - firstWeightStatus}
		return nil
	}
	name := "exec " + guard.Text(c.argv[0])
	var no syscall.Errno
	if errors.As(err, &no) && (no == syscall.EACCES || no == syscall.EPERM) {
		return fmt.Errorf("%s: %w", name, err) // about the file, not about this host
	}
	err = stageFailure(name, err)
	if out = guard.Text(out); out == "" {
		return err
	}
	return &saidError{err, out}
}

// Weight implements [Weigher].
func (c *execChecker) Weight() Weight { return c.weight }

// saidError adds what a program wrote to the reason.
type saidError struct {
	error
	said string
}

func (e *saidError) Error() string { return e.error.Error() + ": " + e.said }
func (e *saidError) Unwrap() error { return e.error }
