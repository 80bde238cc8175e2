/* Finds lines of program code, whose spaces stay as they are: the rules of text/code.py. */

const LONGEST_OPEN_FENCE = 200;
const LONGEST_LINE = 1000;

// Python's \s and \w, which know more characters than JavaScript's.
export const SPACE_CHARACTERS = String.raw`\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000`;
const s = `[${SPACE_CHARACTERS}]`;
const S = `[^${SPACE_CHARACTERS}]`;
const inWord = String.raw`\p{L}\p{N}_`;
const w = `[${inWord}]`;
const end = `(?!${w})`; // the end of a word

const r = String.raw;
const pattern = (...parts) => new RegExp(parts.join("|"), "u");

const FENCE = pattern(r`^${s}{0,3}(${"`"}{3,}|~{3,})`);
const STATEMENT_END = pattern(r`[;{}]${s}*(?://.*|/\*.*)?$`);
const STATEMENT_SIGN = pattern(r`${w}\(|[=\[\]<>{}]|^${s}*(?:return|break|continue|import|package|using|pass)${end}`);
const CODE = pattern(
  // Python, shell prompts, C's preprocessor
  r`^${s}*(?:async${s}+)?def${s}+${w}+${s}*\(`,
  r`^${s}*class${s}+${w}+${s}*(?:\([^)]*\))?${s}*[:{]${s}*$`,
  r`^${s}*(?:else|try|finally)${s}*:${s}*$`,
  r`^${s}*(?:if|elif|while|except|with)${end}.*[=<>()\[\].${inWord}]:${s}*$`,
  r`^${s}*for${s}+${w}[${inWord}, ]*${s}+in${s}+.+:${s}*$`,
  r`^${s}*from${s}+[${inWord}.]+${s}+import${s}+${S}`,
  r`^${s}*import${s}+[${inWord}.]+(?:${s}+as${s}+${w}+)?${s}*;?${s}*$`,
  r`^${s}*return${s}+[${inWord}.]+[(\[.+*/%<>=-]`,
  r`^${s}*return${s}+${w}+${s}*;?${s}*$`,
  r`^${s}*(?:>>>|\$|%)${s}${S}`,
  r`^${s}*#${s}*(?:include|define|ifdef|ifndef|endif|pragma)${end}`,
  // declarations and assignments
  r`^${s}*(?:public|private|protected|static|const|let|var|function|fn|func|int|void|double|float|char|bool|auto)${s}+[${inWord}<>\[\]*&:]+${s}*[=(\{;,]`,
  r`^${s}*[A-Za-z_][${inWord}.]*(?:\[[^\]]*\])?${s}*(?:[+*/%&|^-]|:)?=(?!=)${s}*${S}`,
  // operators that do not occur in prose, calls, and rows of JSON
  r`[${inWord})\]]${s}*(?:==|!=|<=|>=|&&|\|\||=>|\+=|-=|\*=|<<|>>)${s}*[${inWord}("'\[!-]`,
  r`[A-Za-z_]${w}*(?:::|->)[A-Za-z_]${w}*`,
  r`^${s}*[A-Za-z_][${inWord}.]*\([^\(\)]*(?:\([^\(\)]*\))?[^\(\)]*\)${s}*;?${s}*$`,
  r`^${s}*"[^"]+"${s}*:${s}*[\[\{"\p{Nd}]`,
  r`^${s}*[\[\{]${s}*(?:"[^"]*"${s}*:.*)?$`,
  r`^${s}*[\]\}],?${s}*$`,
  r`^${s}*(?:SELECT${s}.+${s}FROM|INSERT${s}+INTO|UPDATE${s}+${w}+${s}+SET|DELETE${s}+FROM|CREATE${s}+TABLE)${end}`,
);
const MAY_BE_CODE = pattern(
  r`[\(\)\{\}\[\]=<>;$%|&#]|::|->|"${s}*:`,
  r`^${s}*(?:import|from|return|else|try|finally|class|SELECT|INSERT|UPDATE|DELETE|CREATE)${end}`,
);
const LATIN = /[A-Za-z{}[\]]/;
const COMMENT = pattern(r`^${s}*(?:#|//|/\*|\*/?|--)${s}*${S}`);
const TRIM = pattern(`^${s}+`, `${s}+$`);
const trim = (text) => text.replace(TRIM, "").replace(TRIM, "");

/** For each line whether it is code: between fences (``` or ~~~, including the fences), or by the syntax of common languages. */
export function codeLines(lines) {
  const code = lines.map(() => false);
  for (let n = 0; n < lines.length; n++) {
    const fence = FENCE.exec(lines[n]);
    if (fence) {
      let last = lines.findIndex((line, m) => m > n && trim(line).startsWith(fence[1]) && /^[ `~]*$/.test(trim(line)));
      if (last < 0 && lines.length - n <= LONGEST_OPEN_FENCE) last = lines.length - 1;
      if (last >= 0) {
        code.fill(true, n, last + 1);
        n = last;
        continue;
      }
    }
    const inCode = n > 0 && code[n - 1] && !FENCE.test(lines[n - 1]);
    code[n] = isCode(lines[n]) || (inCode && (/^(?: {2}|\t)/.test(lines[n]) || COMMENT.test(lines[n])));
  }
  return code;
}

function isCode(line) {
  if (line.length > LONGEST_LINE && [...line].length > LONGEST_LINE) return false;
  if (!MAY_BE_CODE.test(line) || (/[^\x00-\x7f]/.test(line) && !LATIN.test(line))) return false;
  return CODE.test(line) || (STATEMENT_END.test(line) && STATEMENT_SIGN.test(line));
}
