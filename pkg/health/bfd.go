package health

import (
	"context"
	"errors"
	"fmt"
)

// bfdChecker asks how a BFD session of this host stands (keepalived's
// BFD_CHECK).
type bfdChecker struct {
	session string
	find    func(session string) error
}

func newBFD(t Target, find func(session string) error) (Checker, error) {
	switch {
	case t.Spec.Session == "":
		return nil, errors.New("bfd check of no session")
	case find == nil:
		return nil, fmt.Errorf("bfd check of session %s (no BFD here)", t.Spec.Session)
	}
	return bfdChecker{session: t.Spec.Session, find: find}, nil
}

// Check reports the session's state; it waits for nothing.
func (c bfdChecker) Check(context.Context) error {
	if err := c.find(c.session); err != nil {
		return fmt.Errorf("bfd session %s: %w", c.session, err)
	}
	return nil
}
