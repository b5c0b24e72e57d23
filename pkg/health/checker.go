package health

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/lvx-lb/lvx/pkg/guard"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Checker asks one question. Check returns nil if the real can serve, and
// otherwise the reason in words: "http GET /health: 503 (want 200-299)".
// A Checker that also is an io.Closer is closed when it is not needed any
// more. Check may be called by one goroutine at a time.
type Checker interface {
	Check(ctx context.Context) error
}

// Weigher is a [Checker] whose passes say something of the real's weight.
// Weight is asked after each pass.
type Weigher interface {
	Weight() Weight
}

// ErrNotAsked is in the chain of an error that says nothing about the real:
// the question could not be asked, because this host had no file descriptor,
// port or path left, or its disk hangs. The monitor does not count it.
var ErrNotAsked = errors.New("not asked")

// ErrSilent is in the chain of the error of a BFD session whose neighbour is not
// heard: where this host cannot reach the real, that says nothing about it.
var ErrSilent = errors.New("neighbour silent")

// Path delivers probes that are addressed to a VIP to one real server.
type Path interface {
	// Open makes packets of sockets that are connected to real and carry
	// the mark arrive there with vip as their destination, and the replies
	// come back as if from real. Such sockets must not share their local
	// port with others. The packets go as clients' packets get to the real
	// by this way of forwarding. Mark 0 means that real is this host itself: there
	// is nothing to rewrite. Release ends it; it is never nil without an
	// error.
	Open(real, vip netip.Addr, forward lb.Forward, encap lb.Encap) (mark uint32, release func(), err error)
}

// Option changes how [New] builds a checker.
type Option func(*options)

type options struct {
	path   Path
	source func(real netip.Addr) netip.Addr
	bfd    func(session string) error
}

// WithPath gives checks with a VIP the way there. Without it they cannot be
// built.
func WithPath(p Path) Option { return func(o *options) { o.path = p } }

// WithSource says what a check of a real comes from when the check itself does
// not say it: asked each time, the zero Addr is the kernel's choice. A real that
// has the VIP itself does not answer a check that comes from the VIP, and the
// kernel may choose that.
func WithSource(f func(real netip.Addr) netip.Addr) Option { return func(o *options) { o.source = f } }

// WithBFD says what checks of a BFD session find: nil while it is up, else why it
// is not. Without it they cannot be built.
func WithBFD(f func(session string) error) Option { return func(o *options) { o.bfd = f } }

// ThroughVIP reports whether a check can prove that its real serves the VIP:
// it must get an answer that only the real's owner of the VIP can give. That
// is not so for exec and bfd, nor for a udp check that neither sends nor expects
// anything, where silence is a pass.
func ThroughVIP(s Spec) bool {
	switch s.Type {
	case TCP, HTTP, HTTPS, DNS, ICMP, SMTP:
		return true
	case UDP:
		return s.Send != "" || s.Expect != ""
	}
	return false
}

// New builds the checker of t, with defaults filled in. A valid t.VIP makes
// the probe go through the VIP unless t.Spec.Via is [ViaReal]. Every Check
// ends within the spec's timeout.
func New(t Target, opts ...Option) (Checker, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	t.Spec = t.Spec.WithDefaults()
	asksReal := t.Spec.Type != Exec && t.Spec.Type != File && t.Spec.Type != BFD
	if asksReal && !t.Real.IsValid() {
		return nil, fmt.Errorf("%s check of no address", t.Spec.Type)
	}
	direct, err := buildPlain(t, dialer{source: t.Spec.Source, choose: o.source}, o)
	if err != nil {
		return nil, err
	}
	if !t.VIP.IsValid() || t.Spec.Via == ViaReal || !asksReal {
		return timedChecker{direct, t.Spec.Timeout}, nil
	}
	switch {
	case !ThroughVIP(t.Spec):
		return nil, fmt.Errorf("%s check through VIP %s (silence proves nothing: set send, expect or via: real)", t.Spec.Type, t.VIP)
	case o.path == nil:
		return nil, fmt.Errorf("%s check through VIP %s (no path to it here: set via: real)", t.Spec.Type, t.VIP)
	}
	return &vipChecker{target: t, opts: o, direct: direct}, nil
}

// buildPlain makes the plain checker of t, whose sockets d opens.
func buildPlain(t Target, d dialer, o options) (Checker, error) {
	switch t.Spec.Type {
	case TCP:
		return newTCP(t, d), nil
	case HTTP, HTTPS:
		return newHTTP(t, d)
	case DNS:
		return newDNS(t, d)
	case UDP:
		return newUDP(t, d), nil
	case ICMP:
		return newICMP(t, d), nil
	case SMTP:
		return newSMTP(t, d)
	case File:
		return newFile(t)
	case Exec:
		return newExec(t)
	case BFD:
		return newBFD(t, o.bfd)
	}
	return nil, fmt.Errorf("check type %q (known: tcp http https dns udp icmp smtp file exec bfd)", t.Spec.Type)
}

// timedChecker ends a check after its timeout.
type timedChecker struct {
	Checker
	timeout time.Duration
}

func (b timedChecker) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	return addTimeout(b.Checker.Check(ctx), b.timeout)
}

// Weight implements [Weigher].
func (b timedChecker) Weight() Weight { return weightOf(b.Checker) }

func weightOf(c Checker) Weight {
	if w, ok := c.(Weigher); ok {
		return w.Weight()
	}
	return Weight{}
}

// timeoutError stands for every way in which a deadline shows itself.
type timeoutError struct {
	stage string
	after time.Duration
}

func (e *timeoutError) Error() string {
	return fmt.Sprintf("%s: timeout after %s", e.stage, e.after)
}

// Is makes a timeout recognizable without naming the type.
func (*timeoutError) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// addTimeout adds the length of the timeout, which the stages do not know, to
// the timeout in err's chain, if there is one.
func addTimeout(err error, after time.Duration) error {
	var t *timeoutError
	if errors.As(err, &t) {
		t.after = after
	}
	return err
}

// stageFailure is the reason of a check that broke off in a stage: "tcp connect:
// refused".
func stageFailure(stage string, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT) {
		return &timeoutError{stage: stage}
	}
	if errors.Is(err, guard.ErrUnending) {
		return fmt.Errorf("%s: %w: %w", stage, ErrNotAsked, err)
	}
	var no syscall.Errno
	if errors.As(err, &no) {
		if isOwnFault(no) {
			return fmt.Errorf("%s: %w: %w", stage, ErrNotAsked, no)
		}
		return stageError{stage, no}
	}
	return fmt.Errorf("%s: %w", stage, err)
}

// stageError is an errno in the words of an operator, after the stage in
// which it came.
type stageError struct {
	stage string
	errno syscall.Errno
}

func (e stageError) Error() string { return e.stage + ": " + errnoText(e.errno) }
func (e stageError) Unwrap() error { return e.errno }

// isOwnFault reports whether an error is this host's fault.
func isOwnFault(no syscall.Errno) bool {
	switch no {
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EPERM, syscall.EACCES, syscall.EAGAIN:
		return true
	}
	return false
}

func errnoText(no syscall.Errno) string {
	switch no {
	case syscall.ECONNREFUSED:
		return "refused"
	case syscall.ECONNRESET, syscall.EPIPE:
		return "reset by the real"
	case syscall.EHOSTUNREACH:
		return "no route to host (does it answer ARP?)"
	case syscall.ENETUNREACH:
		return "network unreachable"
	}
	return no.Error()
}
