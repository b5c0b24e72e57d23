package health_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/health"
)

// web serves over HTTP what the tests ask for.
func web(t *testing.T) http.Handler {
	mux := http.NewServeMux()
	status := func(path string, code int) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
	}
	status("/204", 204)
	status("/404", 404)
	status("/503", 503)
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/loop", http.StatusFound)
	})
	mux.HandleFunc("/text", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "all is well\n") })
	mux.HandleFunc("/late", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 64<<10)+"all is well\n")
	})
	mux.HandleFunc("/hints", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("/asked", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Method+" "+r.Host+" "+r.RequestURI+" close="+r.Header.Get("Connection"))
	})
	return mux
}

func TestHTTP(t *testing.T) {
	srv := httptest.NewServer(web(t))
	defer srv.Close()
	port := portOf(t, srv.Listener.Addr())
	at := netip.AddrPortFrom(loopback, port).String()
	for _, tc := range []struct {
		spec health.Spec
		want string
	}{
		{health.Spec{Path: "/204"}, ""},
		{health.Spec{Path: "/404"}, "http GET /404: 404 (want 200-299)"},
		{health.Spec{}, "http GET /: 404 (want 200-299)"},
		{health.Spec{Path: "/503", Status: "200-299,503"}, ""},
		{health.Spec{Path: "/503", Status: " 200 , 301"}, "http GET /503: 503 (want  200 , 301)"},
		{health.Spec{Path: "/loop"}, "http GET /loop: 302 to /loop, not followed (want 200-299)"},
		{health.Spec{Path: "/loop", Status: "302"}, ""},
		{health.Spec{Path: "/hints"}, ""},
		{health.Spec{Path: "/text", Match: "^all .* well$"}, `http GET /text: body does not match "^all .* well$"`},
		{health.Spec{Path: "/text", Match: "(?m)^all .* well$"}, ""},
		{health.Spec{Path: "/late", Match: "well"}, `http GET /late: body does not match "well"`},
		{health.Spec{Path: "/204", Method: "HEAD"}, ""},
		{health.Spec{Path: "/404", Method: "HEAD"}, "http HEAD /404: 404 (want 200-299)"},
		{health.Spec{Path: "/asked?a=b", Match: `^GET ` + at + ` /asked\?a=b close=$`}, `http GET /asked?a=b: body does not match...`},
		{health.Spec{Path: "/asked?a=b", Match: `^GET ` + at + ` /asked\?a=b close=close$`}, ""},
		{health.Spec{Path: "/asked", Method: "POST", Host: "www.example.org", Match: `^POST www.example.org /asked `}, ""},
	} {
		tc.spec.Type = health.HTTP
		expect(t, tc.spec.Method+tc.spec.Path+tc.spec.Match, try(t, tc.spec, port), tc.want)
	}
}

func TestHTTPStrangeServers(t *testing.T) {
	for what, tc := range map[string]struct {
		f    func(net.Conn)
		spec health.Spec
		want string
	}{
		"closes":        {func(net.Conn) {}, health.Spec{}, "http GET /: ..."},
		"half a header": {half("HTTP/1.1 200 OK\r\nServ"), health.Spec{}, "http GET /: closed without a complete answer"},
		"half a body":   {half("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok"), health.Spec{Match: "ok"}, ""},
		"less of it":    {half("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok"), health.Spec{Match: "OK"}, `http GET /: body does not match "OK"`},
		"another protocol": {says("220 \x1b[31mmail\r\n"), health.Spec{},
			`http GET /: malformed HTTP status code "\x1b[31mmail"`},
		"never answers": {silent, health.Spec{Timeout: impatience}, "http GET /: timeout after 100ms"},
		"stops in the body": {says("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok"), health.Spec{Match: "OK", Timeout: impatience},
			"http GET / body: timeout after 100ms"},
		"upgrades": {says("HTTP/1.1 101 Switching Protocols\r\n\r\n"), health.Spec{}, "http GET /: 101 (want 200-299)"},
		"endless hints": {repeats("HTTP/1.1 103 Early Hints\r\n\r\n"), health.Spec{},
			"http GET /: no answer within 128 KiB"},
		"endless header": {repeats("HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", 1000)), health.Spec{},
			"http GET /: no answer within 128 KiB"},
		"chunked": {says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"), health.Spec{Match: "^ok$"}, ""},
		"refused": {nil, health.Spec{}, "tcp connect: refused"},
	} {
		port := closed(t, "tcp4")
		if tc.f != nil {
			port = serve(t, loopback, tc.f)
		}
		tc.spec.Type = health.HTTP
		expect(t, what, try(t, tc.spec, port), tc.want)
	}
}

// half reads the request, answers and closes.
func half(text string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, text)
	}
}

// repeats writes until nobody listens any more.
func repeats(text string) func(net.Conn) {
	return func(c net.Conn) {
		for {
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
	}
}

// A body of a gigabyte costs what a check reads of it.
func TestHTTPHugeBody(t *testing.T) {
	const gigabyte = 1 << 30
	var sent atomic.Int64
	done := make(chan bool, 1)
	port := serve(t, loopback, func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
		block := bytes.Repeat([]byte("x"), 64<<10)
		for sent.Load() < gigabyte {
			n, err := c.Write(block)
			sent.Add(int64(n))
			if err != nil {
				break
			}
		}
		done <- true
	})
	for _, tc := range []struct{ match, want string }{
		{"", ""},
		{"^x", ""},
		{"y", `http GET /: body does not match "y"`},
	} {
		sent.Store(0)
		expect(t, "match "+tc.match, try(t, health.Spec{Type: health.HTTP, Match: tc.match}, port), tc.want)
		<-done
		if n := sent.Load(); n > 64<<20 {
			t.Errorf("match %q: the server got rid of %d bytes", tc.match, n)
		}
	}
}

func TestHTTPS(t *testing.T) {
	srv := httptest.NewUnstartedServer(web(t))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	port := portOf(t, srv.Listener.Addr())
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		spec health.Spec
		want string
	}{
		{health.Spec{Path: "/204", SkipVerify: true}, ""},
		{health.Spec{Path: "/503", SkipVerify: true}, "https GET /503: 503 (want 200-299)"},
		{health.Spec{Path: "/204", CA: ca}, ""}, // the certificate names 127.0.0.1
		{health.Spec{Path: "/204", CA: ca, SNI: "example.com"}, ""},
		{health.Spec{Path: "/204", CA: ca, Host: "example.com:8443"}, ""},
		{health.Spec{Path: "/204", CA: ca, Host: "other.test"}, "TLS handshake: tls: failed to verify certificate: x509: certificate is valid for example.com, ..."},
		{health.Spec{Path: "/204"}, "TLS handshake: tls: failed to verify certificate: x509: certificate signed by unknown authority"},
	} {
		tc.spec.Type = health.HTTPS
		expect(t, tc.spec.Host+tc.spec.SNI+tc.spec.Path, try(t, tc.spec, port), tc.want)
	}
}

// A file of certificates that is not there yet, or is changed, is read when it is
// needed: the checks of a director that runs follow it.
func TestHTTPSCertificatesFollowTheirFile(t *testing.T) {
	srv := httptest.NewUnstartedServer(web(t))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	c, err := health.New(health.Target{
		Spec: health.Spec{Type: health.HTTPS, Path: "/204", CA: ca}, Real: loopback, Port: portOf(t, srv.Listener.Addr()),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context()); !errors.Is(err, health.ErrNotAsked) || !strings.Contains(err.Error(), ca) {
		t.Errorf("without a file: %v", err)
	}
	for _, step := range []struct {
		cert []byte
		want string
	}{
		{[]byte("none"), "no PEM certificate"},
		{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: selfSigned(t)}), "unknown authority"},
		{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), ""},
	} {
		if err := os.WriteFile(ca, step.cert, 0o600); err != nil {
			t.Fatal(err)
		}
		err := c.Check(t.Context())
		if step.want == "" && err != nil || step.want != "" && (err == nil || !strings.Contains(err.Error(), step.want)) {
			t.Errorf("%v, want %q", err, step.want)
		}
	}
}

// An authority that has expired is renewed with its key: what it has signed is trusted
// by the new file alone.
func TestHTTPSCertificatesOfARenewedAuthority(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certificate := func(isCA bool, until time.Time) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: fmt.Sprint(isCA)}, NotAfter: until,
			IsCA: isCA, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}
	}
	sign := func(template, by *x509.Certificate) []byte {
		t.Helper()
		der, err := x509.CreateCertificate(rand.Reader, template, by, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	expired, renewed := certificate(true, time.Now().Add(-time.Hour)), certificate(true, time.Now().Add(time.Hour))
	srv := httptest.NewUnstartedServer(web(t))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{sign(certificate(false, time.Now().Add(time.Hour)), renewed)}, PrivateKey: key}}}
	srv.StartTLS()
	defer srv.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	c, err := health.New(health.Target{
		Spec: health.Spec{Type: health.HTTPS, Path: "/204", CA: ca}, Real: loopback, Port: portOf(t, srv.Listener.Addr()),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		authority *x509.Certificate
		want      string
	}{{expired, "expired"}, {renewed, ""}} {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: sign(step.authority, step.authority)})
		if err := os.WriteFile(ca, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := c.Check(t.Context()); fmt.Sprint(err) != "<nil>" && step.want == "" || !strings.Contains(fmt.Sprint(err), step.want) {
			t.Errorf("%v, want %q", err, step.want)
		}
	}
}

// selfSigned makes a certificate.
func selfSigned(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestHTTPSName(t *testing.T) {
	names := make(chan string, 1)
	port := serve(t, loopback, func(c net.Conn) {
		srv := tls.Server(c, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			names <- h.ServerName
			return nil, io.EOF
		}})
		_ = srv.Handshake()
	})
	for _, tc := range []struct{ host, sni, want string }{
		{"www.example.org", "", "www.example.org"},
		{"www.example.org:8443", "", "www.example.org"},
		{"www.example.org", "other.example.org", "other.example.org"},
		{"", "", ""}, // an address is never a server name (RFC 6066 section 3)
	} {
		if err := try(t, health.Spec{Type: health.HTTPS, Host: tc.host, SNI: tc.sni}, port); err == nil {
			t.Error("passed")
		}
		if got := <-names; got != tc.want {
			t.Errorf("host %q, sni %q: asked for %q, want %q", tc.host, tc.sni, got, tc.want)
		}
	}
}

func TestHTTPSStrangeServers(t *testing.T) {
	for what, tc := range map[string]struct {
		f       func(net.Conn)
		timeout time.Duration
		want    string
	}{
		"never answers": {silent, impatience, "TLS handshake: timeout after 100ms"},
		"closes":        {half(""), 0, "TLS handshake: closed without a complete answer"},
		"speaks HTTP":   {says("HTTP/1.1 400 Bad Request\r\n\r\n"), 0, "TLS handshake: tls: first record does not look like a TLS handshake"},
	} {
		spec := health.Spec{Type: health.HTTPS, Timeout: tc.timeout}
		expect(t, what, try(t, spec, serve(t, loopback, tc.f)), tc.want)
	}
}

func TestHTTP6(t *testing.T) {
	hosts := make(chan string, 1)
	port := serve(t, loopback6, func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			hosts <- err.Error()
			return
		}
		hosts <- r.Host
		says("HTTP/1.1 204 No Content\r\n\r\n")(c)
	})
	expect(t, "IPv6", tryAt(t, health.Target{Spec: health.Spec{Type: health.HTTP}, Real: loopback6, Port: port}), "")
	if got, want := <-hosts, netip.AddrPortFrom(loopback6, port).String(); got != want {
		t.Errorf("Host %q, want %q", got, want)
	}
}
