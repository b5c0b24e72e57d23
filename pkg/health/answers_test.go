package health_test

import (
	"bufio"
	"crypto/md5"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c" //nolint:staticcheck // a server that speaks both, as users have them

	"github.com/lvx-lb/lvx/pkg/health"
)

// What clients take is an answer, also where Go's own client is stricter: a
// check asks whether the service answers.
func TestFault11ServersThatClientsTake(t *testing.T) {
	for what, answer := range map[string]string{
		"text that is not ASCII":   "HTTP/1.1 200 OK\r\nServer: Apfelb\xe4umchen\r\nX-\xfc: \xff\r\n\r\nok",
		"a name with a blank":      "HTTP/1.1 200 OK\r\nMy Header: x\r\n\r\nok",
		"a line without a colon":   "HTTP/1.1 200 OK\r\nnonsense\r\nA: b\r\n\r\nok",
		"two lengths":              "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 2\r\n\r\nok",
		"a length and chunks":      "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"chunks after the length":  "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"chunks, said twice":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"lines that end with LF":   "HTTP/1.1 200 OK\nA: b\n\nok",
		"no reason":                "HTTP/1.1 200\r\n\r\nok",
		"HTTP/1.0":                 "HTTP/1.0 200 OK\r\n\r\nok",
		"control characters in it": "HTTP/1.1 200 OK\r\nA: \x01\x02\r\n\r\nok",
	} {
		expect(t, what, try(t, health.Spec{Type: health.HTTP, Match: "ok"}, serve(t, loopback, half(answer))), "")
	}
}

func TestHTTPDigestAndNoMatch(t *testing.T) {
	body := strings.Repeat("lvx ", 64<<10) // more than a pattern sees
	sum := md5.Sum([]byte(body))
	digest := hex.EncodeToString(sum[:])
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
	defer srv.Close()
	port := portOf(t, srv.Listener.Addr())
	for _, tc := range []struct {
		spec health.Spec
		want string
	}{
		{health.Spec{Digest: digest}, ""},
		{health.Spec{Digest: strings.ToUpper(digest)}, ""},
		{health.Spec{Digest: strings.Repeat("0", 32)}, "http GET /: digest " + digest + " (want " + strings.Repeat("0", 32) + ")"},
		{health.Spec{NoMatch: "maintenance"}, ""},
		{health.Spec{NoMatch: "l.x"}, `http GET /: body matches "l.x"`},
		{health.Spec{NoMatch: "maintenance", Match: "^lvx"}, ""},
		{health.Spec{NoMatch: "lvx", Match: "^lvx"}, `http GET /: body matches "lvx"`},
	} {
		tc.spec.Type = health.HTTP
		expect(t, tc.spec.Digest+tc.spec.NoMatch, try(t, tc.spec, port), tc.want)
	}
	short := serve(t, loopback, half("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok"))
	expect(t, "cut", try(t, health.Spec{Type: health.HTTP, Digest: digest}, short), "http GET / body: closed without a complete answer")
}

// Servers that speak nothing but HTTP/2: by ALPN, and by knowing it
// beforehand, where the checker has to find out.
func TestFault11HTTP2Only(t *testing.T) {
	srv := httptest.NewUnstartedServer(web(t))
	srv.TLS = &tls.Config{NextProtos: []string{http2.NextProtoTLS}}
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	secure := portOf(t, srv.Listener.Addr())
	spec := health.Spec{Type: health.HTTPS, SkipVerify: true}
	for path, want := range map[string]string{
		"/204": "", "/404": "https GET /404: 404 (want 200-299)", "/loop": "https GET /loop: 302 to /loop, not followed (want 200-299)",
	} {
		spec.Path = path
		expect(t, "ALPN "+path, try(t, spec, secure), want)
	}
	spec.Path, spec.Match = "/text", "well$"
	expect(t, "ALPN body", try(t, spec, secure), `https GET /text: body does not match "well$"`)

	unencrypted := serve(t, loopback, func(c net.Conn) {
		//nolint:staticcheck // on a connection that is there
		(&http2.Server{}).ServeConn(c, &http2.ServeConnOpts{Handler: web(t)})
	})
	checker, err := health.New(health.Target{Spec: health.Spec{Type: health.HTTP, Path: "/asked", Match: "^GET 127.0.0.1:"}, Real: loopback, Port: unencrypted})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		expect(t, "prior knowledge", checker.Check(t.Context()), "")
		expect(t, "prior knowledge of a failure", try(t, health.Spec{Type: health.HTTP, Path: "/404"}, unencrypted), "http GET /404: 404 (want 200-299)")
	}

	//nolint:staticcheck // see the import
	both := httptest.NewServer(h2c.NewHandler(web(t), &http2.Server{}))
	defer both.Close()
	expect(t, "both", try(t, health.Spec{Type: health.HTTP, Path: "/204"}, portOf(t, both.Listener.Addr())), "")
}

// A server of TLS 1.2 that exchanges keys by RSA alone, and one that is older
// still, are alive; the configuration can narrow what is offered.
func TestFault11OldTLS(t *testing.T) {
	const rsa = "TLS_RSA_WITH_AES_128_GCM_SHA256"
	start := func(cfg *tls.Config) uint16 {
		srv := httptest.NewUnstartedServer(web(t))
		srv.TLS = cfg
		srv.StartTLS()
		t.Cleanup(srv.Close)
		return portOf(t, srv.Listener.Addr())
	}
	rsaOnly := start(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}})
	tripleDES := start(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA}})
	tls10 := start(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10})
	for _, tc := range []struct {
		what string
		port uint16
		spec health.Spec
		want string
	}{
		{"RSA key exchange", rsaOnly, health.Spec{}, ""},
		{"3DES", tripleDES, health.Spec{}, ""},
		{"TLS 1.0", tls10, health.Spec{}, ""},
		{"TLS 1.0, refused", tls10, health.Spec{TLSMin: "1.2"}, "TLS handshake: remote error: tls: protocol version not supported"},
		{"the suite it has", rsaOnly, health.Spec{TLSCiphers: rsa}, ""},
		{"another suite", tripleDES, health.Spec{TLSCiphers: rsa}, "TLS handshake: remote error: tls: handshake failure"},
	} {
		tc.spec.Type, tc.spec.SkipVerify, tc.spec.Path = health.HTTPS, true, "/204"
		expect(t, tc.what, try(t, tc.spec, tc.port), tc.want)
	}
}

func TestSMTP(t *testing.T) {
	// mail answers each line with the next reply.
	mail := func(greeting string, replies ...string) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = io.WriteString(c, greeting)
			r := bufio.NewReader(c)
			for _, reply := range replies {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, strings.ReplaceAll(reply, "LINE", strings.TrimSpace(line)))
			}
		}
	}
	for what, tc := range map[string]struct {
		f    func(net.Conn)
		spec health.Spec
		want string
	}{
		"takes mail":        {mail("220 mail ready\r\n", "250 hello\r\n", "221 bye\r\n"), health.Spec{}, ""},
		"several lines":     {mail("220-mail\r\n220 ready\r\n", "250-a\r\n250 b\r\n"), health.Spec{}, ""},
		"says who it is":    {mail("220 x\r\n", "550 LINE\r\n"), health.Spec{Helo: "lb.example.org"}, `smtp reply: "550 HELO lb.example.org" (want 250)`},
		"busy":              {mail("421 too many \x1b[31mconnections\r\n"), health.Spec{}, `smtp reply: "421 too many ?[31mconnections" (want 220)`},
		"closes":            {func(net.Conn) {}, health.Spec{}, "smtp reply: closed without a complete answer"},
		"says nothing":      {silent, health.Spec{Timeout: impatience}, "smtp reply: timeout after 100ms"},
		"never stops":       {repeats("220-mail\r\n"), health.Spec{}, "smtp reply: closed without a complete answer"},
		"is no mail at all": {says("SSH-2.0-OpenSSH\r\n"), health.Spec{}, `smtp reply: "SSH-2.0-OpenSSH" (want 220)`},
	} {
		tc.spec.Type = health.SMTP
		expect(t, what, try(t, tc.spec, serve(t, loopback, tc.f)), tc.want)
	}
}

func TestFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "state")
	for _, tc := range []struct {
		text   string
		factor int
		want   string
		weight health.Weight
	}{
		{"", 0, "", health.Weight{}},
		{"0\n", 0, "", health.Weight{}},
		{"1", 0, "file " + name + ": 1 (want 0)", health.Weight{}},
		{"-3\n", 2, "", health.Weight{Value: -6}},
		{"yes", 0, "file: " + name + ` holds "yes" (want a whole number)`, health.Weight{}},
		{"99999999", 1, "file: " + name + ` holds "99999999" (want a whole number)`, health.Weight{}},
	} {
		if err := os.WriteFile(name, []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := health.New(health.Target{Spec: health.Spec{Type: health.File, File: name, Factor: tc.factor}})
		if err != nil {
			t.Fatal(err)
		}
		expect(t, tc.text, c.Check(t.Context()), tc.want)
		if w := c.(health.Weigher).Weight(); w != tc.weight {
			t.Errorf("%q: weight %+v, want %+v", tc.text, w, tc.weight)
		}
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	expect(t, "no file", try(t, health.Spec{Type: health.File, File: name}, 0), "")
}

// keepalived's misc_dynamic: 0 leaves the weight alone, 1 is a failure, and
// from 2 on the status less two is the weight.
func TestExecDynamicWeight(t *testing.T) {
	for status, want := range map[int]health.Weight{
		0: {}, 2: {IsFixed: true}, 5: {IsFixed: true, Value: 3}, 255: {IsFixed: true, Value: 253},
	} {
		spec := health.Spec{Type: health.Exec, Argv: script(t, fmt.Sprint("exit ", status)), DynamicWeight: true}
		c, err := health.New(health.Target{Spec: spec, Real: loopback})
		if err != nil {
			t.Fatal(err)
		}
		expect(t, fmt.Sprint("status ", status), c.Check(t.Context()), "")
		if w := c.(health.Weigher).Weight(); w != want {
			t.Errorf("status %d: weight %+v, want %+v", status, w, want)
		}
	}
	name := script(t, "exit 1")
	err := try(t, health.Spec{Type: health.Exec, Argv: name, DynamicWeight: true}, 0)
	expect(t, "status 1", err, "exec "+name+": exit status 1")
}

// A check that does not say what it comes from comes from what the daemon
// chooses: never from a VIP, which the real has itself.
func TestChosenSource(t *testing.T) {
	from := make(chan string, 10)
	port := serve(t, loopback, func(c net.Conn) {
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		from <- host
	})
	choose := health.WithSource(func(real netip.Addr) netip.Addr {
		if real != loopback {
			t.Errorf("asked for %s", real)
		}
		return netip.MustParseAddr("127.0.0.9")
	})
	for _, tc := range []struct {
		source netip.Addr
		want   string
	}{{netip.Addr{}, "127.0.0.9"}, {netip.MustParseAddr("127.0.0.7"), "127.0.0.7"}} {
		c, err := health.New(health.Target{Spec: health.Spec{Type: health.TCP, Source: tc.source}, Real: loopback, Port: port}, choose)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, tc.want, c.Check(t.Context()), "")
		if got := <-from; got != tc.want {
			t.Errorf("came from %s, want %s", got, tc.want)
		}
	}
}
