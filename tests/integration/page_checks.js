// SPDX-License-Identifier: Apache-2.0
// What tests/integration/test_matrix_page.py asks the page; `checks` is put into it by the test.
const checks = {
  /** Elements with text of their own. */
  texts() {
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = new Set();
    while (walk.nextNode()) {
      if (walk.currentNode.data.trim()) found.add(walk.currentNode.parentElement);
    }
    return [...found];
  },

  rgba(text) {
    const [red, green, blue, alpha = 1] = text.match(/[\d.]+/g).map(Number);
    return { red, green, blue, alpha };
  },

  luminance({ red, green, blue }) {
    const [r, g, b] = [red, green, blue].map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  },

  background(element) {
    for (let at = element; at; at = at.parentElement) {
      const color = checks.rgba(getComputedStyle(at).backgroundColor);
      if (color.alpha === 1) return color;
      if (color.alpha !== 0) throw new Error(`see-through: ${at.outerHTML.slice(0, 80)}`);
    }
    throw new Error("no background");
  },

  contrast(element, pseudo) {
    const ink = checks.luminance(checks.rgba(getComputedStyle(element, pseudo).color));
    const paper = checks.luminance(checks.background(element));
    return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  },

  /** Texts and list numbers below a contrast, as [ratio, markup]. */
  faint(least) {
    const numbers = [...document.querySelectorAll("ol > li")];
    const all = [
      ...checks.texts().map((element) => [element, null]),
      ...numbers.map((element) => [element, "::marker"]),
    ];
    return all
      .map(([element, pseudo]) => [checks.contrast(element, pseudo), element.outerHTML.slice(0, 120)])
      .filter(([ratio]) => ratio < least);
  },

  small(pixels) {
    return checks
      .texts()
      .filter((element) => parseFloat(getComputedStyle(element).fontSize) < pixels)
      .map((element) => element.outerHTML.slice(0, 120));
  },

  /** Links that a finger can't hit. */
  narrow(pixels) {
    return [...document.links]
      .filter((link) => {
        const box = link.getBoundingClientRect();
        return Math.min(box.width, box.height) < pixels;
      })
      .map((link) => link.outerHTML.slice(0, 120));
  },

  overflow() {
    const root = document.documentElement;
    const table = document.querySelector("table");
    return {
      page: root.scrollWidth - root.clientWidth,
      table: table.getBoundingClientRect().right - root.clientWidth,
    };
  },

  /** Scroll the table's box to its end; is every one of these still on top at the box's edge? */
  stuck(selector, edge) {
    const box = document.querySelector(".scroll");
    box.scrollIntoView();
    box.scrollTo(box.scrollWidth, edge === "top" ? box.scrollHeight : 0);
    const rim = box.getBoundingClientRect();
    const corner = document.querySelector("thead td").getBoundingClientRect();
    const moved = edge === "top" ? box.scrollTop : box.scrollLeft;
    const cells = [...document.querySelectorAll(selector)].filter((cell) => {
      const middle = checks.middle(cell);
      const inside = middle.x < rim.right && middle.y < Math.min(rim.bottom, innerHeight);
      return edge === "top" ? middle.x > corner.right && inside : middle.y > rim.top && inside;
    });
    const off = cells.filter((cell) => {
      const { x, y } = checks.middle(cell);
      const away = Math.abs(cell.getBoundingClientRect()[edge] - rim[edge]);
      return away > 1 || !cell.contains(document.elementFromPoint(x, y));
    });
    return { moved, seen: cells.length, off: off.map((cell) => cell.outerHTML.slice(0, 120)) };
  },

  middle(element) {
    const box = element.getBoundingClientRect();
    return { x: (box.left + box.right) / 2, y: (box.top + box.bottom) / 2 };
  },

  /** Follow every link in turn; those whose target isn't on the screen then. */
  async lost() {
    const lost = [];
    for (const link of document.links) {
      const target = document.getElementById(link.hash.slice(1));
      if (target === null) {
        lost.push(link.outerHTML);
        continue;
      }
      scrollTo(0, 0);
      link.click();
      await new Promise(requestAnimationFrame);
      const top = target.getBoundingClientRect().top;
      if (top < 0 || top > innerHeight - 20 || target !== document.querySelector(":target")) {
        lost.push(link.outerHTML);
      }
    }
    return lost;
  },

  /** Each cell as a reader gets it: its words, its symbol, and the lines that its link leads to. */
  told() {
    const lines = (element) =>
      [...element.querySelectorAll(":scope > ul:not(.next) > li, :scope > dd > ul > li")].flatMap(
        (item) => {
          const numbered = [...item.querySelectorAll("ol > li")];
          if (!numbered.length) return [item.textContent];
          const path = item.querySelector("code").textContent;
          return numbered.map((line) => `${path}:${line.value} ${line.textContent}`);
        },
      );
    return [...document.querySelectorAll("tbody td a")].map((link) => {
      const target = document.getElementById(link.hash.slice(1));
      const run = target.closest(".run");
      return {
        words: link.getAttribute("aria-label"),
        title: link.title,
        symbol: link.textContent,
        patch: run.querySelector("p.muted")?.textContent ?? null,
        lines: [...lines(run), ...(target === run ? [] : lines(target))],
        next: [...run.querySelectorAll("ul.next li")].map((item) => item.textContent),
      };
    });
  },
};
