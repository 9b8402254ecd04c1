import { createHash } from "node:crypto";
import { defineConfig, type Plugin } from "vite";

// Puts the script and the style into index.html, so that the report is one
// file. The security policy then allows exactly that script, by its hash:
// nothing that a report quotes can ever run.
function inline(): Plugin {
  return {
    name: "inline",
    enforce: "post",
    generateBundle(_, bundle) {
      const page = bundle["index.html"];
      if (page?.type !== "asset") throw new Error("no index.html was built");
      let html = String(page.source);
      let script = "";
      for (const [name, file] of Object.entries(bundle)) {
        if (file.type === "chunk") {
          script += file.code.trim().replace(/<\/script/gi, "<\\/script").replace(/<!--/g, "<\\!--");
          html = html.replace(new RegExp(`\\s*<script[^>]*src="[^"]*${file.fileName}"[^>]*></script>`), "");
        } else if (name.endsWith(".css")) {
          html = html.replace(/\s*<link rel="stylesheet"[^>]*>/, "");
          const style = `<style>${String(file.source).trim()}</style>\n</head>`;
          html = html.replace("</head>", () => style);
        } else {
          continue;
        }
        delete bundle[name];
      }
      if (script === "") throw new Error("no script was built");
      const hash = createHash("sha256").update(script).digest("base64");
      html = html.replace("script-src 'self'", `script-src 'sha256-${hash}'`);
      // Last in the body: by then the data is there.
      html = html.replace("</body>", () => `<script>${script}</script>\n</body>`);
      if (/(src|href)="/.test(html.replace(/<script>[\s\S]*<\/script>/, ""))) throw new Error("the page still loads something");
      page.source = html;
    },
  };
}

export default defineConfig({
  base: "./",
  // dist keeps its .gitkeep, which Go embeds before the page is built.
  build: {
    emptyOutDir: false,
    modulePreload: false,
    assetsInlineLimit: 1 << 20,
    cssCodeSplit: false,
    rollupOptions: { output: { format: "iife" } },
  },
  plugins: [inline()],
});
