// Package health asks real servers whether they can serve, and keeps count.
//
// A [Checker] asks one question once; the [Monitor] asks many questions on
// time, applies rise and fall, and reports changes to a listener. The package
// does not decide what a failed check means for traffic: that is
// director.Plan's.
package health

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/lvx-lb/lvx/pkg/lb"
)

// Type is the kind of a check.
type Type string

// The kinds of checks.
const (
	TCP   Type = "tcp"
	HTTP  Type = "http"
	HTTPS Type = "https"
	DNS   Type = "dns"
	UDP   Type = "udp"
	ICMP  Type = "icmp"
	SMTP  Type = "smtp"
	File  Type = "file"
	Exec  Type = "exec"
	BFD   Type = "bfd"
)

// Via is the address that a probe is sent to.
type Via string

// ViaVIP addresses the probe to the VIP and delivers it to the real's MAC,
// so that a real without the VIP fails. ViaReal probes the real's own
// address. The empty Via means ViaVIP where the kind of check and the
// backend can do it, else ViaReal.
const (
	ViaVIP  Via = "vip"
	ViaReal Via = "real"
)

// Spec is one check as the configuration asks for it. The zero values of
// durations and counts mean the defaults of [Spec.WithDefaults]. Specs are
// compared as values to share probes between services, so they hold no
// pointers; lists are joined strings.
type Spec struct {
	Type Type
	Via  Via
	Port uint16 // 0 = the port of the service's first listener that has one

	Interval   time.Duration // between probes while the last one passed; default 6 s (keepalived's delay_loop in the field)
	Timeout    time.Duration // of one probe; default 3 s
	RetryDelay time.Duration // between probes after a failure; default Interval
	Fall       int           // consecutive failures until down; default 3
	Rise       int           // consecutive passes until up again; default 2 (the very first pass is enough at start)
	Jitter     float64       // share of the interval by which probes are spread at random, 0 to 0.5; default 0.1
	Source     netip.Addr    // source address; zero = the kernel's choice
	Address    netip.Addr    // asked instead of the real's own address (keepalived's connect_ip); zero = the real's

	// http and https
	Method     string // default GET
	Path       string // default /
	Host       string // Host header; default the VIP
	SNI        string // https: server name; default Host
	Status     string // "200-299,301"; default "200-299"
	Match      string // regular expression that the first 64 KiB of the body must match
	NoMatch    string // regular expression that they must not match
	Digest     string // MD5 of the whole body in hexadecimal digits, as keepalived's genhash gives it
	CA         string // https: file of PEM certificates to trust; default the system's
	SkipVerify bool   // https: accept any certificate
	TLSMin     string // https: least version, "1.0" to "1.3"; default 1.0: a check asks whether the service answers
	TLSCiphers string // https: names of cipher suites, one per line; default all that the library has

	// smtp
	Helo string // the name to introduce this host by; default localhost

	// file: a file that holds a whole number; none or an empty one is 0
	File   string
	Factor int // the number times Factor is added to the real's weight; 0 = any number but 0 takes the real down

	Session string // bfd: the name of the session

	// dns
	Query  string // name to ask for, default "."
	QType  string // A, AAAA, NS, SOA, MX, TXT; default SOA
	Expect string // dns: text an answer must contain; udp and tcp: bytes the reply must start with; "" = any
	Send   string // udp and tcp: bytes to send first

	// exec: argument vector and environment, one per line
	Argv string
	Env  string
	// DynamicWeight makes an exit status of 2 to 255 a pass, with a weight of
	// two less (keepalived's misc_dynamic).
	DynamicWeight bool
}

// Defaults of a [Spec]; keepalived's where it has one.
const (
	DefaultInterval = 6 * time.Second
	DefaultTimeout  = 3 * time.Second
	DefaultFall     = 3
	DefaultRise     = 2
	DefaultJitter   = 0.1

	// defaultBFDInterval is that of a check which is also asked whenever its
	// answer changes.
	defaultBFDInterval = time.Second
)

// WithDefaults fills what the configuration left out.
func (s Spec) WithDefaults() Spec {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if s.Type == BFD { // the session counts what is missing
		def(&s.Interval, defaultBFDInterval)
		s.Fall, s.Rise = max(s.Fall, 1), max(s.Rise, 1)
	}
	def(&s.Interval, DefaultInterval)
	def(&s.Timeout, DefaultTimeout)
	def(&s.RetryDelay, s.Interval)
	if s.Fall == 0 {
		s.Fall = DefaultFall
	}
	if s.Rise == 0 {
		s.Rise = DefaultRise
	}
	if s.Jitter == 0 {
		s.Jitter = DefaultJitter
	}
	if s.Type == HTTP || s.Type == HTTPS {
		if s.Method == "" {
			s.Method = http.MethodGet
		}
		if s.Path == "" {
			s.Path = "/"
		}
		if s.Status == "" {
			s.Status = "200-299"
		}
	}
	if s.Type == SMTP && s.Helo == "" {
		s.Helo = "localhost"
	}
	if s.Type == DNS {
		if s.Query == "" {
			s.Query = "."
		}
		if s.QType == "" {
			s.QType = "SOA"
		}
	}
	return s
}

// Target is one question: this check of this real, reached this way. Equal
// targets share one probe.
type Target struct {
	Spec Spec
	Real netip.Addr
	Port uint16     // the port to ask, already resolved; 0 for icmp, file and bfd
	VIP  netip.Addr // the VIP that a [ViaVIP] probe is addressed to, and that an exec check learns of

	// Forward is how a [ViaVIP] probe gets to the real.
	Forward lb.Forward
	Encap   lb.Encap // of a tunnel
}

// Status is what the monitor knows of one target.
type Status struct {
	Up       bool
	Known    bool      // false until the first result: such a real is down
	Since    time.Time // of the last change of Up
	Reason   string    // why it is down, or what the last failure was: "http GET /health: 503 (want 200-299) (failed 3 times)"
	Fails    int       // consecutive failures
	Passes   int       // consecutive passes
	Flapping bool      // it changes so often that it is kept down
	NotAsked bool      // the last probe could not be asked, by no fault of the real; Reason says why
	Weight   Weight    // what the last pass says of the weight
	Last     time.Time // when the last probe ended
	Took     time.Duration
}

// Weight is what a check says of the weight of its real. The zero Weight
// leaves it alone.
type Weight struct {
	IsFixed bool // Value is the weight; else it is added to the configured one
	Value   int
}

// Event is a change of one target's status.
type Event struct {
	Target Target
	Old    Status
	New    Status
}
