package keepalived_test

import (
	"os"
	"testing"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/keepalived"
)

func TestRecognize(t *testing.T) {
	for _, name := range fixtures(t) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !keepalived.Recognize(text) {
			t.Errorf("%s is not recognized", name)
		}
	}
	for text, want := range map[string]bool{
		config.Reference():                  false,
		"":                                  false,
		"# only a comment\n":                false,
		"interface: eth0\nservices: []\n":   false,
		"---\ninterface: eth0\n":            false,
		"{interface: eth0}\n":               false,
		"vrrp:\n  - name: virtual_server\n": false,
		"# virtual_server 192.0.2.1 80 {\nvrrp: []\n": false,
		"! Configuration File for keepalived\n":       true,
		"virtual_server 192.0.2.1 80 {\n":             true,
		"\r\n  global_defs{\r\n}\r\n":                 true,
		"include /etc/keepalived/conf.d/*.conf\n":     true,
		"@node1 vrrp_instance V {\n":                  true,
		"$VIP=192.0.2.1\n":                            true,
		"<<<<<<< HEAD\nvrrp_instance VI_1\n{\n":       true,
	} {
		if got := keepalived.Recognize([]byte(text)); got != want {
			t.Errorf("%.40q: %t (want %t)", text, got, want)
		}
	}
}
